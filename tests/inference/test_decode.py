"""Answers against the reference's `generate`, alone and in batches that join and leave."""

from __future__ import annotations

import pytest
import torch

from groundup.inference.decode import answer
from groundup.inference.sampling import Sampling

STOPS = frozenset(range(3, 97, 6))
DECODERS = ("llama-llama3", "gpt2-plain", "bloom-6-heads")


def reference_ids(model, prompt: list[int], **how) -> list[int]:
    how = {"max_new_tokens": 12, "eos_token_id": sorted(STOPS), "do_sample": False} | how
    out = model.generate(torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long), **how)
    new = out[0].tolist()
    new = new[1:] if model.config.is_encoder_decoder else new[len(prompt) :]
    ends = [i for i, token in enumerate(new) if token in STOPS]
    return new[: ends[0]] if ends else new


@pytest.mark.parametrize("name", DECODERS)
def test_greedy_is_the_references(name, pair, draw_prompts):
    reference, ours = pair(name)
    prompts = draw_prompts(5, 1, 11, 7, 3, 9, 2)
    want = [reference_ids(reference, p) for p in prompts]
    assert len({len(w) for w in want}) > 1, "some should end early"
    for batch in (1, 3, 32):
        got = answer(ours, prompts, sampling=Sampling(12, temperature=0), stop_ids=STOPS, batch=batch)
        assert [a.ids for a in got] == want
        assert [a.finish for a in got] == ["length" if len(w) == 12 else "stop" for w in want]
