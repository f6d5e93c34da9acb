"""Labels of texts and of words through the whole of `finetune`: taught, kept, scored, asked, and read by peft."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import scipy.stats
import sklearn.metrics
import torch
import transformers

import groundup as gu
from groundup.adapting import with_labels
from groundup.cli.main import main
from groundup.core.errors import UsageError
from groundup.core.labels import Labels
from groundup.data.labelled import Question, labelled, labels_in
from groundup.evaluation.choices import choice_logprobs, choice_scores, picked
from groundup.evaluation.labels import label_scores, spans
from groundup.inference.classify import scores
from groundup.inputs.train import train_tokenizer
from groundup.model import Model
from groundup.nn.heads import head_of
from groundup.training.classify import Judged, classify, label_loss
from groundup.training.loop import Trainer
from groundup.training.pretrain import scratch
from groundup.training.settings import Settings

SIZES: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4},
    "bert": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64},
}
QUICK: dict[str, Any] = {"steps": 90, "learning_rate": 1e-2, "precision": "float32", "batch": 16}
UP, DOWN = ["good", "fine", "nice"], ["bad", "poor", "sad"]


def texts(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Four words, one of which tells the label."""
    dice = random.Random(seed)
    made = []
    for i in range(count):
        words = [dice.choice("abc") for _ in range(4)]
        words[dice.randrange(4)] = dice.choice(UP if i % 2 else DOWN)
        made.append({"text": " ".join(words), "label": "up" if i % 2 else "down"})
    return made


TRAIN, TEST = texts(128), texts(40, seed=1)


def tagged(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    tag = {**dict.fromkeys(UP, "B-UP"), **dict.fromkeys(DOWN, "B-DOWN")}
    split = [row["text"].split() for row in rows]
    return [{"tokens": words, "tags": [tag.get(word, "O") for word in words]} for words in split]


@pytest.fixture(scope="module", params=["gpt2", "bert"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A model of random weights with a tokenizer, as a folder that transformers reads too."""
    kind, specials = ("wordpiece", "masked") if request.param == "bert" else ("bpe", "causal")
    tokenizer = train_tokenizer([row["text"] for row in TRAIN], kind, vocabulary=280, specials=specials)
    made = scratch(request.param, SIZES[request.param], tokenizer)
    return gu.load(gu.save(replace(made, adapter=None, methods={}), tmp_path_factory.mktemp("base") / request.param))


def test_labels_are_learned_beside_an_adapter_and_peft_says_the_same(base: Model, tmp_path: Path) -> None:
    before = {n: t.clone() for n, t in base.network.state_dict().items()}
    said: list[str] = []
    run = gu.finetune(gu.adapt(base, gu.LoRA()), TRAIN, out=tmp_path / "run", say=said.append, **QUICK)
    assert run.best_loss < 0.35 < 0.5 < run.first_loss
    assert any("a fresh head for 2 single labels (down, up)" in line for line in said)
    assert base.config.labels is None
    assert all(torch.equal(base.network.state_dict()[n], t) for n, t in before.items())

    tuned = gu.load(tmp_path / "run")
    report = gu.evaluate(tuned, TEST)
    accuracy, f1 = report.scores
    answers = [tuned.classify(row["text"]) for row in TEST]
    hits = [next(iter(said)) == row["label"] for said, row in zip(answers, TEST, strict=True)]
    assert accuracy.name == "accuracy" and accuracy.value == sum(hits) / len(hits) > 0.8
    names = [row["label"] for row in TEST]
    chosen = [next(iter(said)) for said in answers]
    assert f1.value == pytest.approx(sklearn.metrics.f1_score(names, chosen, average="macro"))

    config = json.loads((run.best / "adapter_config.json").read_text())
    assert config["task_type"] == "SEQ_CLS" and config["modules_to_save"]
    reference = transformers.AutoModelForSequenceClassification.from_pretrained(base.origin.path, num_labels=2)
    reference.config.pad_token_id = None
    theirs = peft.PeftModel.from_pretrained(reference, str(run.best)).eval()
    for row in TEST[:6]:
        ids = torch.tensor([tuned.words.encode(row["text"])])
        with torch.no_grad():
            want = theirs(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.softmax(-1)
        assert float((tuned.judge([row["text"]])[0] - want).abs().max()) < 1e-5
    # a negative control: without the adapter the same head says something else
    alone = transformers.AutoModelForSequenceClassification.from_pretrained(base.origin.path, num_labels=2)
    alone.config.pad_token_id = None
    with torch.no_grad():
        other = alone.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.softmax(-1)
    assert float((other - want).abs().max()) > 1e-2


def test_a_run_on_labels_goes_on_to_the_same_bits(base: Model, tmp_path: Path) -> None:
    def start(name: str, stop: int | None = None, resume: bool = False) -> Any:
        def tell(step: int, steps: int, **facts: float) -> None:
            if step == stop:
                raise KeyboardInterrupt

        given = {} if resume else {**QUICK, "steps": 12, "save_every": 0.0}
        tuned = gu.adapt(base, gu.LoRA())
        return gu.finetune(tuned, TRAIN, out=tmp_path / name, on_progress=tell, resume=resume, **given)

    whole = start("whole")
    with pytest.raises(KeyboardInterrupt):
        start("broken", stop=7)
    again = start("broken", resume=True)
    for part in ("best", "last"):
        one, two = (out / part / "adapter_model.safetensors" for out in (whole.out, again.out))
        assert one.read_bytes() == two.read_bytes()


def test_words_get_tags(base: Model, tmp_path: Path) -> None:
    rows, test = tagged(TRAIN), tagged(TEST)
    gu.finetune(gu.adapt(base, gu.LoRA()), rows, out=tmp_path / "run", **QUICK)
    tuned = gu.load(tmp_path / "run")
    assert tuned.config.labels == Labels(("B-DOWN", "B-UP", "O"), "single", "token")
    found = tuned.classify("a sad c nice")
    assert [(word, tag) for word, tag, _ in found] == [("a", "O"), ("sad", "B-DOWN"), ("c", "O"), ("nice", "B-UP")]
    accuracy, f1 = gu.evaluate(tuned, test).scores
    assert accuracy.name == "word accuracy" and accuracy.value > 0.95
    assert f1.name == "span F1" and f1.value > 0.85
    with pytest.raises(UsageError, match="judges a token"):
        gu.evaluate(tuned, TEST)


def test_several_labels_and_numbers(base: Model, tmp_path: Path) -> None:
    several = [{"text": r["text"], "label": [w for w in r["text"].split() if w in "abc"]} for r in TRAIN]
    gu.finetune(gu.adapt(base, gu.LoRA()), several, out=tmp_path / "many", **QUICK)
    tuned = gu.load(tmp_path / "many")
    assert tuned.config.labels == Labels(("a", "b", "c"), "multi")
    assert gu.evaluate(tuned, several).scores[0].value > 0.5  # one in eight by chance
    said = tuned.classify("a bad b a")
    assert said["a"] > 0.5 and said["b"] > 0.5 > said["c"]

    numbers = [{"text": r["text"], "label": float(r["text"].split().count("a"))} for r in TRAIN]
    gu.finetune(gu.adapt(base, gu.LoRA()), numbers, out=tmp_path / "number", **QUICK)
    tuned = gu.load(tmp_path / "number")
    r, error = gu.evaluate(tuned, numbers).scores
    ours = [tuned.classify(row["text"])["score"] for row in numbers]
    theirs = [row["label"] for row in numbers]
    assert r.value == pytest.approx(scipy.stats.pearsonr(ours, theirs)[0]) and r.value > 0.9
    assert (r.low, r.high) == pytest.approx(tuple(scipy.stats.pearsonr(ours, theirs).confidence_interval()), abs=1e-6)
    assert error.value == pytest.approx(sklearn.metrics.mean_squared_error(theirs, ours), rel=1e-5)


@pytest.mark.parametrize("problem", ["single", "multi", "regression"])
def test_the_loss_is_that_of_transformers(base: Model, problem: Any, tmp_path: Path) -> None:
    labels = Labels(("x", "y", "z"), problem)
    made = with_labels(base, labels, seed=1)
    dice = torch.Generator().manual_seed(0)
    targets = {
        "single": torch.eye(3)[[2, 0, 1]],
        "multi": torch.tensor([[1.0, 1, 0], [0, 0, 0], [1, 0, 1]]),
        "regression": torch.randn(3, 3, generator=dice),
    }[problem]
    ids = [made.words.encode(row["text"]) for row in TEST[:3]]
    rows = [Judged(row, [True] * len(row), [t.tolist()]) for row, t in zip(ids, targets, strict=True)]
    loss, count = label_loss(made.network.eval(), rows, labels=labels)
    assert count == 3
    gu.save(made, tmp_path / "m")
    reference = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "m").eval()
    wanted = 0.0
    for row, target in zip(ids, targets, strict=True):
        label = target.argmax()[None] if problem == "single" else target[None]
        given = torch.tensor([row])
        wanted += reference(input_ids=given, attention_mask=torch.ones_like(given), labels=label).loss.item()
    assert float(loss) == pytest.approx(wanted, rel=1e-5)


def test_the_words_are_learned_beside_the_label(tmp_path: Path) -> None:
    """L = L_label + λ · L_words, of a decoder; an encoder has no next word."""
    tokenizer = train_tokenizer([row["text"] for row in TRAIN], "bpe", vocabulary=280, specials="causal")
    plain = replace(scratch("gpt2", SIZES["gpt2"], tokenizer), adapter=None, methods={})
    labels = Labels(("down", "up"))
    made = with_labels(plain, labels, words=True)
    ids = [made.words.encode(text) for text in (TEST[0]["text"], f"{TEST[1]['text']} {TEST[0]['text']} a")]
    rows = [Judged(row, [True] * len(row), [[0.0, 1.0]]) for row in ids]
    network = made.network.train()
    label, words = (float(label_loss(network, rows, labels=labels, auxiliary=a)[0]) for a in (0.0, 1.0))
    half = float(label_loss(network, rows, labels=labels, auxiliary=0.5)[0])
    total = 0.0
    for row in ids:  # a mean over each text's words
        logits = plain.network(torch.tensor(row), gu_step(plain, row))
        total += float(torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(row[1:])))
    assert len(ids[0]) != len(ids[1])
    assert words - label == pytest.approx(total, rel=1e-4)
    assert half - label == pytest.approx(total / 2, rel=1e-4)
    assert float(label_loss(network.eval(), rows, labels=labels, auxiliary=1.0)[0]) == pytest.approx(label)
    run = gu.finetune(gu.adapt(plain, gu.LoRA()), TRAIN, out=tmp_path / "run", auxiliary=0.5, **QUICK)
    assert run.first_loss > 2  # the words' loss is part of it, and no part of the validation loss
    assert run.best_loss < 0.7


@pytest.mark.parametrize("level", ["sequence", "token"])
def test_accumulated_words_and_labels_are_one_big_batch(level: Any, tmp_path: Path) -> None:
    """Texts of very different lengths, and groups of different sizes: the gradients are those of one batch."""
    tokenizer = train_tokenizer([row["text"] for row in TRAIN], "bpe", vocabulary=280, specials="causal")
    plain = replace(scratch("gpt2", SIZES["gpt2"], tokenizer), adapter=None, methods={})
    labels = Labels(("down", "up"), level=level)
    network = with_labels(plain, labels, words=True).network
    trained = {name: p.requires_grad_() for name, p in network.named_parameters()}
    rows = []
    for text in ("up", " ".join(row["text"] for row in TRAIN[:4]), "it fell", "it rose and rose again"):
        ids = tokenizer.encode(text)
        places = list(range(0, len(ids), 2))
        targets = [[0.0, 1.0]] * (len(places) if level == "token" else 1)
        rows.append(Judged(ids, [True] * len(ids), targets, places if level == "token" else None))
    found = []
    for groups in ([rows], [rows[:1], rows[1:3], rows[3:]]):
        learner = Trainer(
            network, trained, rows, rows, Settings(steps=1, learning_rate=0.5, optimizer="sgd", clip=0.0),
            objective=classify(labels, auxiliary=0.7), out=tmp_path, adapter=None, keep=lambda folder: None,
        )  # fmt: skip
        before = {name: p.detach().clone() for name, p in trained.items()}
        loss = learner.update(groups, 0.5)
        found.append((loss, {name: before[name] - p.detach() for name, p in trained.items()}))
        for name, p in trained.items():
            p.data.copy_(before[name])
    (whole, one), (parts, many) = found
    assert parts == pytest.approx(whole, rel=1e-6)
    assert max(float(step.abs().max()) for step in one.values()) > 1e-2
    for name in one:
        torch.testing.assert_close(many[name], one[name], rtol=1e-4, atol=1e-6)


def gu_step(model: Model, row: list[int]) -> Any:
    from groundup.nn.cache import Fresh
    from groundup.peft.front import lay

    return lay(model.network, [row], Fresh())[1]


def test_every_number_of_the_head_moves_and_the_base_keeps_its_own(base: Model, tmp_path: Path) -> None:
    run = gu.finetune(gu.adapt(base, gu.LoRA()), TRAIN, out=tmp_path / "run", **{**QUICK, "steps": 4})
    one, two = (head_of(gu.load(run.out / part).network) for part in ("best", "last"))
    fresh = head_of(with_labels(base, Labels(("down", "up"))).network)
    assert one.keys() == two.keys() == fresh.keys()
    assert all(not torch.equal(one[n], fresh[n]) for n in fresh if n.endswith("weight"))


# --- choices ----------------------------------------------------------------------------------------------------------


def test_choices_are_scored_as_lm_eval_does() -> None:
    """acc by the sum of log-probabilities, acc_norm by characters, acc_bytes by bytes; written out by hand."""
    tokenizer = train_tokenizer([row["text"] for row in TRAIN], "bpe", vocabulary=280, specials="causal")
    lm = replace(scratch("gpt2", SIZES["gpt2"], tokenizer), adapter=None, methods={})
    asked = [Question("a b", ("good fine nice", "bad", "häßlich"), 1), Question("c", ("sad", "fine good"), 0)]
    told = choice_logprobs(lm.network, asked, lm.words)
    for q, found in zip(asked, told, strict=True):
        before = lm.words.encode(q.prompt)
        for choice, logprob in zip(q.choices, found, strict=True):
            whole = lm.words.encode(f"{q.prompt} {choice}")
            assert whole[: len(before)] == before
            logits = lm.network(torch.tensor(whole), gu_step(lm, whole)).log_softmax(-1)
            assert logprob == pytest.approx(sum(float(logits[i - 1, whole[i]]) for i in range(len(before), len(whole))), rel=1e-4)  # fmt: skip
    names = ("long one", "ab", "ä")
    assert [picked([-4.0, -1.5, -1.2], names, by) for by in ("acc", "acc_norm", "acc_bytes")] == [2, 0, 0]
    assert picked([-8.0, -1.5, -0.9], names, "acc_norm") == 1 and picked([-8.0, -1.5, -0.9], names, "acc_bytes") == 2
    assert [s.name for s in choice_scores(asked, told)] == ["acc", "acc_norm", "acc_bytes"]


def test_rows_with_choices_are_evaluated(base: Model) -> None:
    rows = [
        {"question": "a?", "choices": ["good", "bad"], "answer": "bad"},
        {"prompt": "b", "choices": ["a", "b"], "answer": 0},
    ]
    if base.config.family() == "bert":
        with pytest.raises(UsageError, match="goes on with a text"):
            gu.evaluate(base, rows)
        return
    report = gu.evaluate(base, rows)
    assert [s.name for s in report.scores] == ["acc", "acc_norm", "acc_bytes"]
    assert [s.name for s in gu.evaluate(base, rows, metrics=["acc_norm"]).scores] == ["acc_norm"]
    with pytest.raises(UsageError, match="have the metrics acc, acc_norm"):
        gu.evaluate(base, rows, metrics=["exact-match"])
    with pytest.raises(UsageError, match="answer"):
        gu.evaluate(base, [{"question": "a?", "choices": ["x", "y"], "answer": 2}])


# --- what is read and what is refused -----------------------------------------------------------------------------------


def test_what_labels_look_like() -> None:
    def names(*values: Any) -> Labels:
        return labels_in(labelled([{"text": f"t{i}", "label": v} for i, v in enumerate(values)]))

    assert names("b", "a", "b") == Labels(("a", "b"))
    assert names(10, 9, 2) == Labels(("2", "9", "10"))
    assert names(["a"], ["b", "c"]) == Labels(("a", "b", "c"), "multi")
    assert names(0.5, 1.0) == Labels(("score",), "regression")
    with pytest.raises(UsageError, match="every row has the label a"):
        names("a", "a")
    with pytest.raises(UsageError, match="has no label in the field 'mood'"):
        labelled([{"text": "t", "label": "a"}], "mood")
    other = labelled([{"text": "t", "mood": "x"}, {"text": "u", "mood": "y"}], "mood")
    assert labels_in(other) == Labels(("x", "y"))
    desk = labelled([{"prompt": "t", "completion": '{"desk": "sport"}'}], "desk")
    assert desk.rows == [{"text": "t", "label": "sport"}]


def test_an_unknown_label_names_its_row(base: Model, tmp_path: Path) -> None:
    valid = tmp_path / "valid.jsonl"
    valid.write_text('{"text": "a", "label": "sideways"}\n')
    with pytest.raises(UsageError, match="sideways.*labels are down, up"):
        gu.finetune(gu.adapt(base, gu.LoRA()), TRAIN, validation=valid, out=tmp_path / "run", **QUICK)
    assert not (tmp_path / "run").exists()
    with pytest.raises(UsageError, match="no head for labels"):
        base.classify("a")
    with pytest.raises(UsageError, match="have labels|rows with labels"):
        gu.finetune(gu.adapt(base, gu.LoRA()), [{"text": "a b c"}] * 8, out=tmp_path / "run", problem="multi", **QUICK)


def test_spans_of_tags() -> None:
    assert spans(["B-X", "I-X", "O", "I-Y", "B-Y"]) == {("X", 0, 2), ("Y", 3, 4), ("Y", 4, 5)}
    assert spans(["O"]) == set()


def test_macro_f1_is_sklearns() -> None:
    dice = random.Random(0)
    said = [[dice.random() for _ in range(3)] for _ in range(60)]
    wanted = [[float(i == dice.randrange(3)) for i in range(3)] for _ in range(60)]
    wanted = [row if sum(row) == 1 else [1.0, 0.0, 0.0] for row in wanted]
    found = label_scores(Labels(("a", "b", "c")), said, wanted)[1]
    ours, theirs = ([max(range(3), key=row.__getitem__) for row in rows] for rows in (said, wanted))
    assert found.value == pytest.approx(sklearn.metrics.f1_score(theirs, ours, average="macro"))
    assert found.low <= found.value <= found.high


def test_a_batch_judges_as_each_text_alone(base: Model) -> None:
    made = with_labels(base, Labels(("a", "b")), seed=2)
    ids = [made.words.encode(row["text"])[: 3 + i % 3] for i, row in enumerate(TEST[:7])]
    together = scores(made.network, ids, batch=3)
    for row, found in zip(ids, together, strict=True):
        assert float((scores(made.network, [row])[0] - found).abs().max()) < 1e-6


# --- the command line ---------------------------------------------------------------------------------------------------


def test_the_command_line(base: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps({"text": r["text"], "mood": r["label"]}) + "\n" for r in TRAIN))
    out = tmp_path / "run"
    words = ["finetune", str(base.origin.path), f"--data={data}", f"--out={out}", "--label=mood", "--problem=single"]
    assert main([*words, "--steps=60", "--learning-rate=0.01", "--precision=float32", "--batch=16"]) == 0
    assert f'groundup classify {out} "..."' in capsys.readouterr().out
    assert main(["classify", str(out), "a nice b", "--json"]) == 0
    assert next(iter(json.loads(capsys.readouterr().out)["labels"])) == "up"
    assert main(["classify", str(out), "a sad b", "--top", "1"]) == 0
    assert capsys.readouterr().out.split()[1:] == ["down"]
    assert main(["evaluate", str(out), f"--data={data}", "--label=mood", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["scores"][0]["value"] > 0.8
    assert main(["classify", str(base.origin.path), "a"]) == 2
    assert "no head for labels" in capsys.readouterr().err
