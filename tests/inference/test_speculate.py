"""Guessing ahead changes nothing but the number of calls: texts, chance and what is told on the way stay the same."""

from __future__ import annotations

import json
import warnings
from collections import Counter
from pathlib import Path

import pytest
import scipy.stats
import torch
import transformers

import groundup as gu
from groundup.core.errors import UsageError
from groundup.inference.decode import answer
from groundup.inference.runner import Runner
from groundup.inference.sampling import Sampling
from groundup.inference.speculate import Lookup, Small, ahead
from groundup.nn.stack import Decoder

WORDS = 7
PROMPTS = [[1, 2, 3, 1, 2], [4, 5], [6, 1, 6, 1, 6, 1], [3]]


def made(folder: Path, seed: int, **sizes: int) -> Decoder:
    config = transformers.LlamaConfig(
        vocab_size=WORDS, num_attention_heads=4, num_key_value_heads=2, intermediate_size=48,
        max_position_embeddings=128, bos_token_id=0, eos_token_id=0, pad_token_id=0,
        **({"hidden_size": 32, "num_hidden_layers": 2} | sizes),
    )  # fmt: skip
    torch.manual_seed(seed)
    model = transformers.LlamaForCausalLM(config)
    for name, p in model.named_parameters():
        p.data = torch.randn(p.shape) * 0.3 + (p.ndim == 1 and name.endswith("weight"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(folder)
    network = gu.load(folder).network
    assert isinstance(network, Decoder)
    return network


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    return made(tmp_path_factory.mktemp("large"), 0)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    return made(tmp_path_factory.mktemp("small"), 1, hidden_size=16, num_hidden_layers=1)


def drafts(network: Decoder, other: Decoder) -> dict[str, object]:
    return {
        "lookup": Lookup(5),
        "short lookup": Lookup(1, tail=1),
        "other": Small(other, 3),
        "itself": Small(network, 6),
    }


@pytest.mark.parametrize("name", ["lookup", "short lookup", "other", "itself"])
@pytest.mark.parametrize(
    "how",
    [Sampling(16, temperature=0), Sampling(1, temperature=0), Sampling(12, seed=3), Sampling(8, seed=4, n=3, top_p=0.8),
     Sampling(12, temperature=0, repetition_penalty=1.3)],
    ids=["greedy", "one token", "drawn", "three, top-p", "penalised"],
)  # fmt: skip
@pytest.mark.parametrize("stops", [frozenset(), frozenset({5})], ids=["", "with an end"])
def test_answers_are_as_without(network, other, name, how, stops):
    told: dict[int, list[int]] = {}
    plain = answer(network, PROMPTS, sampling=how, stop_ids=stops, batch=3)
    found = answer(
        network, PROMPTS, sampling=how, stop_ids=stops, batch=3, draft=drafts(network, other)[name],  # type: ignore[arg-type]
        on_token=lambda n, token: told.setdefault(n, []).append(token),
    )  # fmt: skip
    assert found == plain
    assert [told.get(n, []) for n in range(len(plain))] == [a.ids for a in plain]


def test_it_takes_fewer_calls(network, monkeypatch):
    calls = Counter[str]()
    for name in ("check", "go_on"):
        was = getattr(Runner, name)
        monkeypatch.setattr(Runner, name, lambda self, *a, was=was, name=name: (calls.update([name]), was(self, *a))[1])
    how = Sampling(36, temperature=0)
    answer(network, PROMPTS[:1], sampling=how)
    assert calls == {"go_on": 35}
    calls.clear()
    answer(network, PROMPTS[:1], sampling=how, draft=Small(network, 5))
    assert calls["check"] == 6  # every guess is right: six tokens a call


def test_the_distribution_is_unchanged(network, other):
    """Two tokens drawn 1,000 times, against the exact probabilities of all 49 pairs (chi-square)."""
    how, prompt = Sampling(3, seed=11, n=1000), PROMPTS[0]
    found = answer(network, [prompt], sampling=how, draft=Small(other, 2), batch=500)
    seen = Counter(tuple(a.ids[1:]) for a in found)
    exact = torch.zeros(WORDS, WORDS, dtype=torch.float64)
    for first, p in enumerate(after(network, prompt)):
        for second, q in enumerate(after(network, [*prompt, first])):
            exact[second] += p * q * after(network, [*prompt, first, second])
    counts = [seen[(i, j)] for i in range(WORDS) for j in range(WORDS)]
    assert sum(counts) == 1000
    assert scipy.stats.chisquare(counts, exact.flatten().numpy() * 1000).pvalue > 0.01
    wrong = exact.flatten().roll(1)  # the negative control
    assert scipy.stats.chisquare(counts, wrong.numpy() * 1000).pvalue < 1e-6


def test_a_draft_keeps_nothing_of_answers_that_are_done_and_ends_where_its_room_does(network, other):
    draft = Small(other, 3, room=9)
    how = Sampling(20, temperature=0)
    assert answer(network, PROMPTS, sampling=how, batch=2, draft=draft) == answer(
        network, PROMPTS, sampling=how, batch=2
    )
    assert not draft.rows
    assert draft.propose(0, [1] * 8, 5) == draft.propose(0, [1] * 8, 1) and not draft.propose(0, [1] * 9, 5)


def after(network: Decoder, ids: list[int]) -> torch.Tensor:
    runner = Runner(network, 1, 64, torch.device("cpu"))
    with torch.inference_mode():
        return runner.join([ids], [0], [None])[0].double().softmax(0)


@pytest.mark.parametrize(
    ("ids", "wanted"),
    [([1, 2, 3, 9, 1, 2, 3], [9, 1, 2]), ([5, 1, 2, 7, 1, 2], [7, 1, 2]), ([1, 2, 3], []), ([4, 4], [4]), ([8], [])],
)
def test_look_up(ids, wanted):
    assert Lookup(3).propose(0, ids, 10) == wanted
    assert Lookup(3).propose(0, ids, 1) == wanted[:1]


def test_from_a_model_and_what_is_refused(starter, tmp_path, capsys):
    starter("smollm2-135m-instruct")
    from groundup.cli.main import main

    lm = gu.load("smollm2-135m-instruct")
    text = "one two three four, one two three four, one two"
    plain = lm.generate(text, max_tokens=6, temperature=0)
    assert lm.generate(text, max_tokens=6, temperature=0, lookup=3) == plain
    assert lm.generate(text, max_tokens=6, temperature=0, draft=lm) == plain
    with pytest.raises(UsageError, match="give one of them"):
        lm.generate(text, lookup=2, draft=lm)
    with pytest.raises(UsageError, match="1 or more"):
        Lookup(-1)
    with pytest.raises(UsageError, match="for beams"):
        lm.generate(text, lookup=2, beams=2, max_tokens=3)
    words = ["generate", "smollm2-135m-instruct", text, "--max-tokens", "6", "--precision", "float32"]
    assert main([*words, "--temperature", "0", "--lookup", "3"]) == 0
    assert capsys.readouterr().out.strip() == str(plain).strip()
    tuned = gu.adapt(lm, gu.LoRA(rank=2))
    assert ahead(lm, tuned, None).adapter == "mine"  # type: ignore[union-attr]
    rows, out = tmp_path / "rows.jsonl", tmp_path / "said.jsonl"
    rows.write_text(json.dumps({"prompt": text}) + "\n")
    words = ["generate", "smollm2-135m-instruct", "--data", str(rows), "--out", str(out), "--max-tokens", "4"]
    words += ["--precision", "float32"]
    assert main([*words, "--temperature", "0", "--draft", "smollm2-135m-instruct"]) == 0
    assert json.loads(out.read_text())["answer"] == lm.chat(
        [{"role": "user", "content": text}], max_tokens=4, temperature=0
    )
    starter("all-minilm-l6-v2")
    with pytest.raises(UsageError, match="a decoder, which writes text"):
        lm.generate(text, draft=gu.load("all-minilm-l6-v2"))
