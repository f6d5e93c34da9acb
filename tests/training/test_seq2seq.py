"""Encoder-decoders: transformers' T5 with labels is the oracle, for the loss, its gradients and what is generated."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import transformers

import groundup as gu
from groundup.core.errors import UsageError
from groundup.data import rows
from groundup.inputs.train import train_tokenizer
from groundup.nn.cache import Fresh
from groundup.nn.step import Step
from groundup.peft.full import weights
from groundup.training.pretrain import scratch
from groundup.training.seq2seq import seq2seq
from groundup.training.which import objective_for

pytestmark = pytest.mark.usefixtures("one_thread")

WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
ROWS = [
    {"prompt": " ".join(WORDS[i : i + n]), "completion": " ".join(reversed(WORDS[i : i + n]))}
    for n in (1, 2, 3, 4)
    for i in range(9 - n)
]
SIZES = {
    "d_model": 36, "d_kv": 7, "d_ff": 41, "num_layers": 2, "num_heads": 5, "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 16,
}  # fmt: skip


@pytest.fixture(scope="module")
def words():
    return train_tokenizer(WORDS, "word", vocabulary=30, specials="seq2seq")


def stirred(sizes, words):
    """A model whose every number is far from where it began."""
    model = scratch("t5", SIZES | sizes, words)
    draw = torch.Generator().manual_seed(5)
    for name, parameter in weights(model.network).items():
        noise = torch.randn(parameter.shape, generator=draw) * (0.05 if name.endswith("q.weight") else 0.3)
        parameter.data = parameter.data * 0.5 + noise
    return model


@pytest.fixture(scope="module")
def model(words):
    return stirred({}, words)


@pytest.mark.parametrize(
    "sizes", [{}, {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}], ids=["first", "v1.1"]
)
def test_loss_and_gradients_are_the_references(sizes, words, tmp_path: Path) -> None:
    model = stirred(sizes, words)
    gu.save(model, tmp_path / "it")
    reference = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path / "it").eval()
    own = weights(model.network)
    for parameter in own.values():
        parameter.requires_grad_()
    objective = objective_for(model)
    assert objective.name == "seq2seq"
    given = objective.encode(rows.read(ROWS[4:20:3]), words, 64).rows
    loss, count = objective.loss(model.network, given)
    assert count == sum(map(objective.count, given)) == sum(len(r.completion) for r in given)
    (loss / count).backward()

    source = [torch.tensor(words.encode(r["prompt"])) for r in ROWS[4:20:3]]
    target = [torch.tensor(words.encode(r["completion"])) for r in ROWS[4:20:3]]
    pad = torch.nn.utils.rnn.pad_sequence
    ids = pad(source, batch_first=True, padding_value=words.pad_id)
    mask = pad([torch.ones_like(s) for s in source], batch_first=True)
    labels = pad(target, batch_first=True, padding_value=-100)
    theirs = reference(input_ids=ids, attention_mask=mask, labels=labels).loss
    theirs.backward()
    torch.testing.assert_close(loss / count, theirs, rtol=1e-5, atol=1e-5)
    their = dict(reference.named_parameters())
    pairs = {
        "encoder.embed.tokens.weight": "shared.weight",
        "encoder.bias.table.weight": "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
        "decoder.bias.table.weight": "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
        "encoder.blocks.1.attn.v.weight": "encoder.block.1.layer.0.SelfAttention.v.weight",
        "decoder.blocks.0.cross.k.weight": "decoder.block.0.layer.1.EncDecAttention.k.weight",
        "decoder.blocks.1.mlp.down.weight": "decoder.block.1.layer.2.DenseReluDense.wo.weight",
    }
    for name, public in pairs.items():
        grad = their[public].grad
        assert (own[name].grad - grad).abs().max() <= 1e-4 * float(grad.abs().max()), name


def test_smoothing_is_pytorchs_and_validation_is_without_it(model, words) -> None:
    smooth, plain = seq2seq(0, smoothing=0.1), seq2seq(0)
    given = plain.encode(rows.read(ROWS[:12]), words, 64).rows
    head = weights(model.network)["encoder.embed.tokens.weight"].requires_grad_()
    logits = []
    for row in given:
        memory = model.network.encode(torch.tensor(row.prompt), Step.of([len(row.prompt)], Fresh()))
        read = [0, *row.completion[:-1]]
        logits.append(model.network(torch.tensor(read), Step.of([len(read)], Fresh(), memory=memory)))
    scores = torch.cat(logits)
    wanted = torch.tensor([id for row in given for id in row.completion])
    model.network.train()
    loss, _ = smooth.loss(model.network, given)
    want = F.cross_entropy(scores, wanted, reduction="sum", label_smoothing=0.1)
    torch.testing.assert_close(loss, want, rtol=1e-5, atol=1e-4)
    ours = torch.autograd.grad(loss, head)[0]
    theirs = torch.autograd.grad(want, head)[0]
    assert (ours - theirs).abs().max() <= 1e-4 * theirs.abs().max()
    model.network.eval()
    with torch.no_grad():
        assert torch.equal(smooth.loss(model.network, given)[0], plain.loss(model.network, given)[0])
        assert abs(float(plain.loss(model.network, given)[0] - want.detach())) > 0.1  # smoothing is no small thing
    head.requires_grad_(False)


def test_finetune_and_evaluate_an_encoder_decoder_with_lora(words, tmp_path: Path) -> None:
    base = replace(scratch("t5", SIZES, words), adapter=None, methods={})
    gu.save(base, tmp_path / "base")
    lm = gu.load(tmp_path / "base")
    tuned = gu.adapt(lm, gu.LoRA(rank=8, alpha=16, targets="all"))
    given = [{"prompt": word, "completion": "nine two"} for word in WORDS]
    run = gu.finetune(tuned, given, out=tmp_path / "run", steps=40, learning_rate=3e-2, batch=9, precision="float32")
    assert run.last_loss < 0.3 * run.first_loss
    tuned = gu.load(tmp_path / "run")
    report = gu.evaluate(tuned, given, metrics=["exact-match", "perplexity"], max_tokens=5)
    assert report.score("exact match").value > 0.9
    assert gu.evaluate(lm, given, metrics=["exact-match"], max_tokens=5).score("exact match").value < 0.2
    perplexity = report.score("perplexity").value
    assert 1.0 <= perplexity < 1.5


def test_answers_are_the_references(model, words, tmp_path: Path) -> None:
    gu.save(model, tmp_path / "it")
    lm = gu.load(tmp_path / "it")
    reference = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path / "it").eval()
    prompts = ["one two three", "nine"]
    answers = lm.answer(prompts, max_tokens=6, temperature=0)
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = torch.tensor([words.encode(prompt)])
        theirs = reference.generate(ids, max_new_tokens=6, do_sample=False)[0].tolist()
        assert answer == words.decode(theirs)


def test_rows_without_an_answer_are_refused(words) -> None:
    with pytest.raises(UsageError, match="row 1: A row without an answer"):
        seq2seq(0).encode(rows.read([{"text": "one two"}]), words, 64)
    endless = train_tokenizer(WORDS, "word", specials={"pad_token": "<pad>"})
    with pytest.raises(UsageError, match="no end-of-text token"):
        seq2seq(0).encode(rows.read(ROWS[:1]), endless, 64)
