"""Pretraining: a recipe gives a model that learns, that transformers loads, and whose killed run goes on to the bit."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
import transformers

import groundup as gu
from groundup.checkpoints.safetensors import open_safetensors
from groundup.core.errors import UsageError
from groundup.core.yamls import read_yaml
from groundup.data import numbers
from groundup.inputs.tokenizer import Encoded
from groundup.inputs.train import train_tokenizer
from groundup.nn.cache import Fresh
from groundup.nn.step import Step
from groundup.training import state
from groundup.training.objective import CAUSAL
from groundup.training.packing import Packed, around, pack, texts_of, unpacked
from groundup.training.pretrain import scratch
from groundup.training.recipe import Recipe

pytestmark = pytest.mark.usefixtures("one_thread")

ANIMALS, VERBS, PLACES = ("cat", "dog", "bird"), ("saw", "met", "fed"), ("mill", "sea", "barn", "wood")
TEXTS = [f"the {a} {v} a {b} near the {p}" for a in ANIMALS for v in VERBS for b in ANIMALS for p in PLACES]
GPT = {"n_layer": 2, "n_head": 2, "n_embd": 32, "n_positions": 48}
RECIPE = {
    "family": "gpt2",
    "model": GPT,
    "tokenizer": {"kind": "bpe", "vocabulary": 300},
    "steps": 30,
    "batch": 8,
    "learning_rate": 1e-2,
    "validate_every": 10,
}


@pytest.fixture
def data(tmp_path: Path) -> str:
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return str(path)


def test_a_gpt_learns_its_texts_and_transformers_goes_on_with_it(data: str, tmp_path: Path) -> None:
    told: list[str] = []
    run = gu.pretrain({**RECIPE, "data": data}, out=tmp_path / "run", say=told.append)
    assert run.first_loss > 4.0 and run.best_loss < 1.5
    assert any("a vocabulary of" in line for line in told)
    lm = gu.load(run.out)
    text = lm.generate("the cat", max_tokens=24)
    assert text.startswith((" saw", " met", " fed")) and "near the" in text
    reference = transformers.AutoModelForCausalLM.from_pretrained(run.best)
    tokenizer = transformers.AutoTokenizer.from_pretrained(run.best)
    ids = tokenizer("the cat", return_tensors="pt")
    with torch.no_grad():
        torch.testing.assert_close(lm.logits("the cat"), reference(**ids).logits[0], rtol=1e-4, atol=1e-4)
    theirs = reference.generate(**ids, max_new_tokens=24, do_sample=False, pad_token_id=0)[0, ids.input_ids.shape[1] :]
    assert tokenizer.decode(theirs, skip_special_tokens=True) == text
    assert {p.name for p in run.out.iterdir()} >= {"best", "last", "log.jsonl", "loss.png", "recipe.json", "tokenizer"}


def test_a_bert_fills_masks_better_than_the_commonest_word(data: str, tmp_path: Path) -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
             "max_position_embeddings": 32}  # fmt: skip
    run = gu.pretrain(
        {"family": "bert", "model": sizes, "tokenizer": {"vocabulary": 120}, "data": data, "batch": 16,
         "learning_rate": 1e-2},
        out=tmp_path / "run", steps=80,
    )  # fmt: skip
    model = gu.load(run.best)
    counts = Counter(word for text in TEXTS for word in text.split())
    unigram = -sum(n / counts.total() * math.log(n / counts.total()) for n in counts.values())
    assert run.best_loss < 0.75 * unigram
    assert {word for word, _ in model.fill("the cat saw a [MASK] near the mill", top=3)} == set(ANIMALS)
    reference = transformers.BertForMaskedLM.from_pretrained(run.best)
    ids = model.words.encode("the [MASK] saw", control=True)
    with torch.no_grad():
        theirs = reference(torch.tensor([ids])).logits[0]
        ours = model.network(torch.tensor(ids), Step.of([len(ids)], Fresh()))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


# --- rows of many texts -----------------------------------------------------------------------------------------------


def test_packed_texts_see_nothing_of_each_other_and_joined_ones_do() -> None:
    words = train_tokenizer(TEXTS, "bpe", vocabulary=300)
    model = scratch("gpt2", GPT, words)
    apart = pack(TEXTS[:9], words, 40)
    assert all(isinstance(row, Packed) and len(row.ids) <= 40 for row in apart)
    assert [t.ids for row in apart for t in texts_of(row)] == [[*words.encode(t), words.eos_id] for t in TEXTS[:9]]
    objective = unpacked(CAUSAL)
    with torch.no_grad():
        together = objective.loss(model.network, apart)
        alone = [CAUSAL.loss(model.network, [text]) for row in apart for text in texts_of(row)]
        seen = CAUSAL.loss(model.network, [Encoded(r.ids, r.trained) for r in apart])  # one row: attention goes across
    torch.testing.assert_close(together[0], sum(loss for loss, _ in alone))
    assert together[1] == sum(n for _, n in alone) == sum(map(objective.count, apart))
    assert abs(float(seen[0] - together[0])) > 1e-3
    joined = pack(TEXTS[:9], words, 40, documents="joined")
    stream = [id for text in TEXTS[:9] for id in [*words.encode(text), words.eos_id]]
    flat = [id for row in joined for id in row.ids]
    assert flat == stream[: len(flat)] and len(stream) - len(flat) < 2  # a lone last token has nothing to predict
    assert {len(r.ids) for r in joined[:-1]} == {40}


def test_masked_pieces_stand_in_their_frame() -> None:
    words = train_tokenizer(TEXTS, "wordpiece", vocabulary=120)
    assert [words.decode(part, skip_control=False) for part in around(words)] == ["[CLS]", "[SEP]"]
    long = [" ".join(TEXTS[:5])]
    for documents in ("apart", "joined"):
        found = [
            t for row in pack(long + TEXTS[:4], words, 16, documents=documents, masked=True) for t in texts_of(row)
        ]
        assert all((t.ids[0], t.ids[-1]) == (around(words)[0][0], around(words)[1][0]) for t in found)
        assert all(len(t.ids) <= 16 and not t.trained[0] and not t.trained[-1] for t in found)
        said = [id for t in found for id, word in zip(t.ids, t.trained, strict=True) if word]
        assert said == [id for text in long + TEXTS[:4] for id in words.encode(text, special=False)]
    with pytest.raises(UsageError, match="greater length"):
        pack(TEXTS, words, 3, masked=True)


# --- killed and resumed -----------------------------------------------------------------------------------------------

SCRIPT = """
import sys, json, torch
torch.set_num_threads(1)
import groundup as gu
gu.pretrain(json.loads(sys.argv[2]), out=sys.argv[1], resume="--resume" in sys.argv, save_every=0.0)
print("done", flush=True)
"""


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_a_killed_run_goes_on_to_the_bit(family: str, data: str, tmp_path: Path) -> None:
    recipe = {**RECIPE, "data": data, "steps": 12}
    if family == "bert":  # draws masks anew in each update
        sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
        recipe |= {"family": "bert", "model": sizes, "tokenizer": {"vocabulary": 120}}

    def start(out: Path, *flags: str) -> subprocess.Popen[bytes]:
        words = [sys.executable, "-W", "ignore", "-c", SCRIPT, str(out), json.dumps(recipe), *flags]
        return subprocess.Popen(words, stdout=subprocess.PIPE)

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    process = start(broken)
    while process.poll() is None and not state.states(broken):
        time.sleep(0.002)
    process.kill()
    process.communicate()
    assert not (broken / "done.json").exists()
    others = [start(whole), start(broken, "--resume")]
    assert all(b"done" in p.communicate(timeout=120)[0] for p in others)
    ends = [open_safetensors(state.states(p)[-1] / "tensors.safetensors") for p in (whole, broken)]
    for name in ends[0].names:
        assert torch.equal(ends[0].read(name), ends[1].read(name)), name
    assert (whole / "last" / "model.safetensors").read_bytes() == (broken / "last" / "model.safetensors").read_bytes()


def test_ctrl_c_saves_and_another_recipe_is_refused(data: str, tmp_path: Path) -> None:
    recipe = {**RECIPE, "data": data, "steps": 6}

    def stop(step: int, *rest: object, **facts: object) -> None:
        if step == 2:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        gu.pretrain(recipe, out=tmp_path / "run", on_progress=stop)
    with pytest.raises(UsageError, match="another recipe"):
        gu.pretrain({**recipe, "model": {**GPT, "n_layer": 1}}, out=tmp_path / "run", resume=True)
    with pytest.raises(UsageError, match="add --resume"):
        gu.pretrain(recipe, out=tmp_path / "run")
    assert gu.pretrain(recipe, out=tmp_path / "run", resume=True).steps == 6


# --- recipes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"famly": "gpt2"}, "no key famly"),
        ({"family": "gpt3"}, "family 'gpt3': there are bert"),
        ({"model": {"n_layers": 2}}, "gpt2 has no key n_layers"),
        ({"model": {"attn_pdrop": 0.1}}, "attn_pdrop would have no effect"),
        ({"model": {"vocab_size": 10}}, "vocab_size is 10"),
        ({"data": {"sorce": "x"}}, "data.source is missing"),
        ({"data": {"source": "x", "size": 3}}, "data has no key size"),
        ({"tokenizer": {"kind": "bpee"}}, "tokenizer.kind = 'bpee'"),
        ({"tokenizer": {"vocabulary": 100}}, "give at least 257"),
        ({"steps": "30"}, "steps = '30'"),
        ({"batch": 0}, "batch is 0"),
        ({"minutes": 1}, "give one of steps, epochs and minutes"),
        ({"objective": "masked"}, "a gpt2 learns causal, not masked"),
        ({"without": ["embed.position"]}, "no part of this model is called 'embed.position'"),
    ],
)
def test_a_recipe_with_a_fault_is_refused_by_the_key(change: dict, says: str, data: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=says):
        gu.pretrain({**RECIPE, "data": data, **change}, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_too_long_rows_are_refused(data: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="length is 64, and this model reads 48"):
        gu.pretrain({**RECIPE, "data": {"source": data, "length": 64}}, out=tmp_path / "run")


def test_yaml_is_read_strictly(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("family: gpt2\ndata: bible\nlearning_rate: 1e-3\nwarmup: .1\nwithout: [a.b]\n")
    recipe, settings = Recipe.read(file)
    assert settings == {"learning_rate": 1e-3, "warmup": 0.1} and recipe.without == ["a.b"]
    for text, says in (
        ("family: a\nfamily: b\n", "stands twice"),
        ("a: !!python/object:os.system x\n", "no YAML"),
        ("- a\n", "holds no lines"),
        ("a: [", "no YAML"),
    ):
        file.write_text(text)
        with pytest.raises(UsageError, match=says):
            Recipe.read(file)


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[2] / "examples" / "configs").glob("*.yaml")), ids=str)
def test_the_ready_recipes_build(path: Path) -> None:
    recipe, settings = Recipe.read(path)
    words = train_tokenizer(TEXTS, "word", specials={"bert": "masked", "t5": "seq2seq"}.get(recipe.family, "causal"))
    model = scratch(recipe.family, recipe.model, words)
    assert 1e5 < sum(p.numel() for p in model.network.parameters()) < 2e6
    assert settings["steps"] and read_yaml(path)["family"] == recipe.family


# --- where numbers begin, and what is switched off ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "sizes"),
    [
        ("gpt2", {"n_embd": 128, "n_layer": 6, "n_head": 4, "n_positions": 64}),
        ("llama", {"hidden_size": 128, "num_hidden_layers": 6, "num_attention_heads": 4, "intermediate_size": 256}),
        ("bloom", {"hidden_size": 128, "n_layer": 6, "n_head": 4}),
        ("bert", {"hidden_size": 128, "num_hidden_layers": 6, "num_attention_heads": 4, "intermediate_size": 256}),
    ],
)
def test_scores_begin_near_size_one_whatever_the_depth(family: str, sizes: dict) -> None:
    words = train_tokenizer(TEXTS, "bpe", vocabulary=400, specials="masked" if family == "bert" else "causal")
    model = scratch(family, sizes, words)
    ids = torch.randint(5, words.vocab_size, (64,), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = model.network(ids, Step.of([64], Fresh()))
    assert 0.5 < float(logits.std()) < 2.0


def test_without_positions_an_encoder_is_blind_to_order(tmp_path: Path) -> None:
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
    data = numbers.parts(60, 10, tasks=["reverse"], longest=3)["train"]
    file = tmp_path / "train.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in data))
    recipe = {"family": "t5", "model": sizes, "tokenizer": {"kind": "word"}, "data": str(file), "learning_rate": 1e-2}
    ends = {}
    for name, parts in (("with", []), ("without", ["bias.table"])):
        gu.pretrain({**recipe, "without": parts}, out=tmp_path / name, steps=4)
        model = gu.load(tmp_path / name)
        ids = model.words.encode("one two three")
        with torch.no_grad():
            seen = [model.network.encode(torch.tensor(i), Step.of([len(ids)], Fresh())).x for i in (ids, ids[::-1])]
        ends[name] = float((seen[0] - seen[1].flip(0)).abs().max())
    assert ends["without"] < 1e-5 and ends["with"] > 1e-3


def test_a_tokenizer_can_be_another_models(data: str, tmp_path: Path) -> None:
    train_tokenizer(TEXTS, "bpe", vocabulary=280).save(tmp_path / "words")
    run = gu.pretrain({**RECIPE, "tokenizer": str(tmp_path / "words"), "data": data}, out=tmp_path / "run", steps=2)
    assert gu.load(run.out).words.vocab_size == 280
    again = gu.pretrain({**RECIPE, "tokenizer": str(run.out), "data": data}, out=tmp_path / "again", steps=2)
    assert gu.load(again.out).words.fingerprint() == gu.load(run.out).words.fingerprint()
