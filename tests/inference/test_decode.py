"""Answers against the reference's `generate`, alone and in batches that join and leave."""

from __future__ import annotations

import pytest
import torch

from groundup.core.errors import UsageError
from groundup.inference import engine, runner
from groundup.inference.decode import answer
from groundup.inference.engine import shared_beginning
from groundup.inference.sampling import Sampling
from groundup.nn.cache import Slots

GREEDY = Sampling(9, temperature=0)
DECODERS = ("llama", "gpt2", "bloom")


def reference_ids(model, prompt: list[int], **how) -> list[int]:
    how = {"max_new_tokens": 9, "eos_token_id": None, "do_sample": False} | how
    out = model.generate(torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long), **how)
    return out[0].tolist()[1 if model.config.is_encoder_decoder else len(prompt) :]


def until(ids: list[int], stops: frozenset[int]) -> list[int]:
    ends = [i for i, token in enumerate(ids) if token in stops]
    return ids[: ends[0]] if ends else ids


@pytest.mark.parametrize("name", [*DECODERS, "t5"])
def test_greedy_is_the_references_in_any_batch(name, pair, draw_prompts):
    reference, ours = pair(name)
    prompts = draw_prompts(5, 1, 11, 7, 3, 9, 2)
    free = [reference_ids(reference, p) for p in prompts]
    stops = frozenset({free[0][4], free[2][7], free[5][2]})
    want = [until(ids, stops) for ids in free]
    assert len({len(w) for w in want}) > 1, "rows must end at different times"
    for batch in (1, 3, 32):
        got = answer(ours, prompts, sampling=GREEDY, stop_ids=stops, batch=batch, decoder_start=0)
        assert [a.ids for a in got] == want
        assert [a.finish for a in got] == ["length" if len(w) == 9 else "stop" for w in want]


def test_a_row_that_sees_another_is_noticed(pair, draw_prompts, monkeypatch):
    """Negative control: without moving the last row into the hole, rows go on from another's keys."""
    reference, ours = pair("llama")
    prompts = draw_prompts(5, 1, 11, 7)
    free = [reference_ids(reference, p) for p in prompts]
    stops = frozenset({free[2][1]})
    want = [until(ids, stops) for ids in free]
    assert [a.ids for a in answer(ours, prompts, sampling=GREEDY, stop_ids=stops)] == want
    monkeypatch.setattr(Slots, "move", lambda self, source, target: None)
    assert [a.ids for a in answer(ours, prompts, sampling=GREEDY, stop_ids=stops)] != want


@pytest.mark.parametrize("name", DECODERS)
def test_what_all_prompts_begin_with_is_read_once(name, pair, draw_prompts, monkeypatch):
    _, ours = pair(name)
    begin, *ends = draw_prompts(10, 3, 1, 6, 2)
    prompts = [begin + end for end in ends]
    alone = [answer(ours, [p], sampling=GREEDY)[0].ids for p in prompts]
    calls: list[int] = []
    call = runner.Runner._call
    monkeypatch.setattr(
        runner.Runner, "_call", lambda s, rows, *a: calls.append(sum(map(len, rows))) or call(s, rows, *a)
    )
    for batch in (2, 32):
        calls.clear()
        assert [a.ids for a in answer(ours, prompts, sampling=GREEDY, batch=batch)] == alone
        read = sum(n for n in calls if n > batch or n in (10, 12))
        assert calls[0] == 10 and read <= 10 + sum(map(len, ends)) + 4
    assert shared_beginning(prompts) == 10
    assert shared_beginning([begin, begin]) == 9, "a row must read one token of its own"
    assert shared_beginning([begin[:7], begin]) == 0 and shared_beginning([begin]) == 0


def test_a_long_prompt_is_read_in_parts(pair, draw_prompts, monkeypatch):
    _, ours = pair("llama")
    prompts = draw_prompts(23, 8, 7, 24, 1, 16, 17)
    want = [a.ids for a in answer(ours, prompts, sampling=GREEDY)]
    monkeypatch.setattr(runner, "PREFILL", 8)
    monkeypatch.setattr(engine, "PREFILL", 8)
    assert [a.ids for a in answer(ours, prompts, sampling=GREEDY)] == want


def test_answers_to_one_prompt_read_it_once(pair, draw_prompts, monkeypatch):
    _, ours = pair("gpt2")
    prompts = draw_prompts(13, 5)
    calls: list[list[int]] = []
    call = runner.Runner._call
    monkeypatch.setattr(
        runner.Runner, "_call", lambda s, rows, *a: calls.append([len(r) for r in rows]) or call(s, rows, *a)
    )
    got = answer(ours, prompts, sampling=Sampling(6, seed=4, n=3))
    assert calls[0] == [13, 5]
    assert len({tuple(a.ids) for a in got[:3]}) == 3, "they are drawn apart"


def test_a_seed_gives_the_same_answer_in_any_company(pair, draw_prompts):
    _, ours = pair("llama")
    prompts = draw_prompts(5, 1, 11, 7)
    how = Sampling(9, temperature=1.3, top_k=40, top_p=0.95, seed=-7)
    together = [a.ids for a in answer(ours, prompts, sampling=how)]
    assert [answer(ours, [p], sampling=how)[0].ids for p in prompts] == together
    assert [a.ids for a in answer(ours, prompts[::-1], sampling=how, batch=2)] == together[::-1]
    other = Sampling(9, temperature=1.3, top_k=40, top_p=0.95, seed=8)
    assert [a.ids for a in answer(ours, prompts, sampling=other)] != together
    free = Sampling(9, temperature=1.3)
    assert answer(ours, prompts, sampling=free) != answer(ours, prompts, sampling=free), "no seed: chance"


def test_adapters_are_one_for_all_or_one_for_each(pair, draw_prompts):
    _, ours = pair("llama")
    begin, *ends = draw_prompts(10, 3, 1)
    with pytest.raises(UsageError, match="1 adapters for 2 prompts"):
        answer(ours, [begin + e for e in ends], sampling=GREEDY, adapters=[None])


def test_filters_see_the_row_and_rule(pair, draw_prompts):
    _, ours = pair("gpt2")
    prompts = draw_prompts(4, 2)
    seen: list[tuple[int, int]] = []

    def only_even_then_33(ids, logits, row):
        seen.append((row, len(ids)))
        mask = torch.arange(len(logits)) % 2 == 1
        return logits.masked_fill(mask, -torch.inf) if len(ids) % 2 else logits.index_fill(0, torch.tensor([33]), 1e4)

    got = answer(ours, prompts, sampling=GREEDY, filters=only_even_then_33)
    for prompt, a in zip(prompts, got, strict=True):
        places = range(len(prompt), len(prompt) + 9)
        assert all(t % 2 == 0 if place % 2 else t == 33 for place, t in zip(places, a.ids, strict=True))
    assert sorted(seen) == sorted((r, n) for r, p in enumerate(prompts) for n in range(len(p), len(p) + 9))
    with pytest.raises(UsageError, match="forbids everything"):
        answer(ours, prompts, sampling=GREEDY, filters=[lambda ids, logits, row: logits - torch.inf])


def test_errors_name_the_counts(pair, draw_prompts):
    _, ours = pair("gpt2")
    prompts = draw_prompts(5, 60)
    with pytest.raises(UsageError, match=r"prompt 2 of 2 has 60 tokens, and 9 more .* make 69: .* 64.*max_tokens=4 or"):
        answer(ours, prompts, sampling=GREEDY, context=64)
    with pytest.raises(UsageError, match=r"the prompt has 64 tokens.*shorten it by 1 tokens"):
        answer(ours, draw_prompts(64), sampling=GREEDY, context=64)
    with pytest.raises(UsageError, match="prompt 1 of 2 holds no tokens"):
        answer(ours, [[], [3]], sampling=GREEDY)
    assert len(answer(ours, draw_prompts(55), sampling=GREEDY, context=64)[0].ids) == 9
    assert answer(ours, draw_prompts(3), sampling=Sampling(0))[0].ids == []
    assert answer(ours, [], sampling=GREEDY) == []
    with pytest.raises(UsageError, match="writes no text"):
        answer(pair("bert")[1], prompts, sampling=GREEDY)


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_beams_are_the_references(name, pair, draw_prompts):
    reference, ours = pair(name)
    prompts = draw_prompts(5, 1, 11, seed=5)
    greedy = [a.ids for a in answer(ours, prompts, sampling=GREEDY, decoder_start=0)]
    stops = [greedy[0][4], greedy[2][3], 17]
    different = 0
    for beams, penalty in ((2, None), (5, 1.3)):
        how = Sampling(9, temperature=0, beams=beams, repetition_penalty=penalty)
        got = answer(ours, prompts, sampling=how, stop_ids=frozenset(stops), decoder_start=0)
        for prompt, a in zip(prompts, got, strict=True):
            want = reference_ids(
                reference, prompt, num_beams=beams, eos_token_id=stops, repetition_penalty=penalty or 1.0
            )
            assert a.ids == until(want, frozenset(stops))
            assert (a.finish == "stop") == any(t in stops for t in want)
        different += [a.ids for a in got] != greedy
    assert different == 2, "beams that find what greedy finds show nothing"
