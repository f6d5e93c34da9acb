"""Masked words: chosen as transformers' collator chooses, scored as its BertForMaskedLM scores, the same in validation."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers

import groundup as gu
from groundup.core.errors import UsageError
from groundup.data import rows
from groundup.inputs.tokenizer import Encoded, Tokenizer
from groundup.inputs.train import train_tokenizer
from groundup.peft.full import weights
from groundup.training.masked import chosen, disturbed, marked, masked, words_loss
from groundup.training.pretrain import scratch
from groundup.training.which import objective_for

pytestmark = pytest.mark.usefixtures("one_thread")

TEXTS = [
    f"the {a} saw a {b} near the old {c}" for a in ("cat", "dog") for b in ("mouse", "bird") for c in ("mill", "sea")
]
SIZES = {
    "hidden_size": 36, "num_hidden_layers": 2, "num_attention_heads": 6, "intermediate_size": 41,
    "max_position_embeddings": 24,
}  # fmt: skip
DISTILLED = {"dim": 36, "n_layers": 2, "n_heads": 6, "hidden_dim": 41, "max_position_embeddings": 24}


@pytest.fixture(scope="module")
def words() -> Tokenizer:
    return train_tokenizer(TEXTS, "wordpiece", vocabulary=90)


@pytest.fixture(scope="module")
def model(words):
    return scratch("bert", SIZES, words)


def test_the_shares_are_those_of_the_references_collator(words, tmp_path: Path) -> None:
    words.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    row = marked(words.encode(" ".join(TEXTS * 4)), words)
    collator = transformers.DataCollatorForLanguageModeling(theirs, mlm_probability=0.15)
    torch.manual_seed(0)
    ours, reference = Counter[str](), Counter[str]()

    def count(into: Counter[str], before: list[int], after: list[int], picked: list[int]) -> None:
        into["words"] += sum(row.trained)
        for at in picked:
            assert row.trained[at]
            fate = "mask" if after[at] == words.mask_id else "same" if after[at] == before[at] else "other"
            into[fate] += 1
            into["chosen"] += 1

    for _ in range(150):
        ids, places = disturbed(row, mask=words.mask_id, vocabulary=words.vocab_size)
        count(ours, row.ids, ids, places)
        assert all(a == b for i, (a, b) in enumerate(zip(ids, row.ids, strict=True)) if i not in places)
        batch = collator([{"input_ids": list(row.ids)}])
        labels = batch["labels"][0].tolist()
        count(reference, row.ids, batch["input_ids"][0].tolist(), [i for i, t in enumerate(labels) if t != -100])
    for found in (ours, reference):
        assert found["chosen"] / found["words"] == pytest.approx(0.15, abs=0.008)
        for fate, share in (("mask", 0.8), ("other", 0.1), ("same", 0.1)):
            assert found[fate] / found["chosen"] == pytest.approx(share, abs=0.02)


def test_every_row_has_as_many_chosen_words_as_are_counted(words) -> None:
    for length in (1, 3, 10, 40):
        row = Encoded([0, *range(5, 5 + length), 1], [False, *[True] * length, False])
        picked = [disturbed(row, mask=4, vocabulary=90)[1] for _ in range(20)]
        assert all(len(p) == chosen(row) == max(1, round(0.15 * length)) for p in picked)
        assert length < 10 or len(set(map(tuple, picked))) > 10  # dynamic: not the same ones each time


@pytest.mark.parametrize("family", ["bert", "distilbert", "roberta"])
def test_loss_and_gradients_are_the_references(family, words, tmp_path: Path) -> None:
    model = scratch(family, DISTILLED if family == "distilbert" else SIZES, words)
    gu.save(model, tmp_path / "it")
    reference = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "it", attn_implementation="eager")
    given = [marked(words.encode(text), words) for text in (TEXTS[0], "a cat", TEXTS[3] + " and a dog")]
    own = weights(model.network)
    for parameter in own.values():
        parameter.requires_grad_()
    torch.manual_seed(1)
    read = [disturbed(r, mask=words.mask_id, vocabulary=words.vocab_size) for r in given]
    wanted = torch.tensor([r.ids[p] for r, (_, at) in zip(given, read, strict=True) for p in at])
    loss = words_loss(model.network, [ids for ids, _ in read], [at for _, at in read], wanted)
    (loss / len(wanted)).backward()

    size = max(len(r.ids) for r in given)
    ids, labels = torch.full((3, size), words.pad_id), torch.full((3, size), -100)
    mask = torch.zeros(3, size, dtype=torch.long)
    for i, (row, (after, at)) in enumerate(zip(given, read, strict=True)):
        ids[i, : len(after)], mask[i, : len(after)] = torch.tensor(after), 1
        labels[i, at] = torch.tensor([row.ids[p] for p in at])
    theirs = reference(input_ids=ids, attention_mask=mask, labels=labels).loss
    theirs.backward()
    torch.testing.assert_close(loss / len(wanted), theirs)
    their = dict(reference.named_parameters())
    plan = model.family.hugging_face(model.config).save(own)
    assert not plan.unused and len(plan.entries) == len(their)
    for entry in plan.entries:
        (name,), (public,) = entry.targets, entry.sources
        torch.testing.assert_close(own[name].grad, their[public].grad, rtol=1e-4, atol=1e-6)


def test_validation_disturbs_a_row_in_the_same_way_and_training_does_not(model, words) -> None:
    objective = masked(words)
    given = [marked(words.encode(" ".join(TEXTS[:2])), words)]
    model.network.eval()
    with torch.no_grad():
        assert float(objective.loss(model.network, given)[0]) == float(objective.loss(model.network, given)[0])
        model.network.train()
        torch.manual_seed(3)
        first, second = (float(objective.loss(model.network, given)[0]) for _ in range(2))
        torch.manual_seed(3)
        assert first != second and float(objective.loss(model.network, given)[0]) == first
    model.network.eval()


def test_finetune_trains_a_bert_with_lora_and_resumes_to_the_bit(model, tmp_path: Path) -> None:
    tuned = gu.adapt(replace(model, adapter=None, methods={}), gu.LoRA(rank=2, targets="all"))
    data = [{"text": text} for text in TEXTS]
    how = {"steps": 6, "batch": 4, "learning_rate": 1e-2, "precision": "float32", "validate_every": 3}
    whole = gu.finetune(tuned, data, out=tmp_path / "whole", **how)

    def stop(step: int, *rest: object, **facts: object) -> None:
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gu.finetune(tuned, data, out=tmp_path / "broken", on_progress=stop, save_every=0.0, **how)
    again = gu.finetune(tuned, data, out=tmp_path / "broken", resume=True)
    files = [r.last / "adapter_model.safetensors" for r in (whole, again)]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert again.last_loss == whole.last_loss


def test_chats_are_read_as_what_they_say(words) -> None:
    given = rows.read([{"prompt": "the cat", "completion": "a mouse"}])
    (row,) = masked(words).encode(given, words, 64).rows
    assert row.ids == words.encode("the cat\na mouse") and sum(row.trained) == len(row.ids) - 2


def test_what_cannot_learn_masked_words_is_refused(model) -> None:
    no_mask = train_tokenizer(TEXTS, "word", specials="causal", vocabulary=90)
    with pytest.raises(UsageError, match="no mask_token"):
        objective_for(replace(model, tokenizer=no_mask))
    headless = scratch("bert", SIZES, model.words)
    headless.network.head = None
    with pytest.raises(UsageError, match="no head"):
        objective_for(headless)
