"""Losses against the reference's own, row by row; embeddings against the mean by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from groundup.inference.embed import embed
from groundup.inference.score import logprob, nll, nll_each
from groundup.inputs.tokenizer import Encoded


def reference_nll(model, row: Encoded) -> float:
    with torch.no_grad():
        logits = model(torch.tensor([row.ids])).logits[0, :-1]
    losses = F.cross_entropy(logits, torch.tensor(row.ids[1:]), reduction="none")
    return losses[torch.tensor(row.trained[1:])].sum().item()


@pytest.mark.parametrize("family", ["llama", "gpt2", "bloom"])
@pytest.mark.parametrize("shared", [0, 9])
def test_loss_is_the_references(family, shared, pair, draw_prompts):
    reference, ours = pair(family)
    begin, *ends = draw_prompts(shared or 1, 5, 2, 11, 7)
    rows = [
        Encoded((begin + e)[shared == 0 :], ([False] * len(begin) + [i % 3 != 1 for i in range(len(e))])[shared == 0 :])
        for e in ends
    ]
    want = [reference_nll(reference, r) for r in rows]
    for tokens in (1, 20, 4096):
        got = nll_each(ours, rows, tokens=tokens)
        assert [s for s, _ in got] == pytest.approx(want, rel=1e-4)
        assert [n for _, n in got] == [sum(r.trained[1:]) for r in rows]
        assert nll(ours, rows, tokens=tokens) == (pytest.approx(sum(want), rel=1e-4), sum(n for _, n in got))
    assert nll(ours, [Encoded(rows[0].ids, [False] * len(rows[0].ids))]) == (0.0, 0)
    other = [Encoded(r.ids, [not t for t in r.trained]) for r in rows]
    assert [s for s, _ in nll_each(ours, other)] == pytest.approx(
        [reference_nll(reference, r) for r in other], rel=1e-4
    )


def test_logprob_of_continuations(pair, draw_prompts):
    reference, ours = pair("llama")
    prompt, *ends = draw_prompts(12, 1, 4, 2)
    want = [-reference_nll(reference, Encoded(prompt + e, [False] * 12 + [True] * len(e))) for e in ends]
    assert logprob(ours, prompt, ends) == pytest.approx(want, rel=1e-4)
    assert logprob(ours, prompt, ends[:1]) == pytest.approx(want[:1], rel=1e-4)


def test_embeddings_are_the_mean_at_unit_length(pair, draw_prompts):
    reference, ours = pair("bert")
    rows = draw_prompts(5, 2, 9, 5)
    with torch.no_grad():
        hidden = [reference.bert(torch.tensor([r])).last_hidden_state[0] for r in rows]
    for batch in (1, 3, 32):
        got = embed(ours, rows, batch=batch)
        torch.testing.assert_close(got, F.normalize(torch.stack([h.mean(0) for h in hidden])), rtol=1e-4, atol=1e-5)
        first = embed(ours, rows, batch=batch, pooling="first", normalize=False)
        torch.testing.assert_close(first, torch.stack([h[0] for h in hidden]), rtol=1e-4, atol=1e-4)
