"""Attention and hidden states against the reference's own; the lens ends in what the model says; looking is free."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import groundup as gu
from groundup.core.errors import UsageError
from groundup.interpret import look
from groundup.nn import keys
from groundup.nn.cache import Fresh, Shared, Slots
from groundup.nn.step import Apart, Step, Taps
from groundup.peft.front import lay
from groundup.peft.llama_adapter import LlamaAdapter
from groundup.peft.prefix import PrefixTuning
from groundup.peft.prompt import Prompt
from parity.oracles import CASES

# softmax of scores that differ by float32's roundings; states as the logits of tests/parity
WEIGHTS, STATES = 2e-5, 1e-5
IDS, ANSWER = [5, 17, 3, 88, 41, 9, 60], [12, 77, 30]
NAMES = ["gpt2-plain", "gpt2-by-layer", "llama-grouped", "bloom-6-heads", "bloom-5-heads-normed", "bert-plain"]


@torch.no_grad()
def reference(model: Any, **ids: list[int]) -> Any:
    given = {name: torch.tensor([row]) for name, row in ids.items()}
    return model(**given, output_attentions=True, output_hidden_states=True)


def apart(got: Tensor, want: Tensor) -> float:
    assert got.shape == want.shape
    return (got - want).abs().max().item() / max(1.0, want.abs().max().item())


@pytest.mark.parametrize("name", NAMES)
def test_attention_is_the_references(name: str, pair: Callable[[str], Any]) -> None:
    oracle, model = pair(name)
    want = reference(oracle, input_ids=IDS).attentions
    maps = look.attention(model, IDS)
    assert [(m.path, m.layer, m.part) for m in maps] == [(f"blocks.{i}.attn", i, "attn") for i in range(len(want))]
    for found, weights in zip(maps, want, strict=True):
        assert apart(found.weights, weights[0]) <= WEIGHTS
        assert apart(found.weights.sum(-1), torch.ones(found.weights.shape[:2])) < 1e-5
        assert found.queries == found.keys == [str(i) for i in IDS]
    if maps[0].weights.shape[0] > 1:
        assert apart(maps[0].weights.flip(0), want[0][0]) > 0.01, "heads in another order would agree too"
    assert apart(maps[0].weights, want[1][0]) > 0.01, "so would another layer"


def test_attention_of_both_halves(pair: Callable[[str], Any]) -> None:
    oracle, model = pair("t5-first")
    want = reference(oracle, input_ids=IDS, decoder_input_ids=[0, *ANSWER])
    maps = look.attention(model, IDS, answer=ANSWER)
    for part, theirs in (
        ("encoder.attn", want.encoder_attentions),
        ("decoder.attn", want.decoder_attentions),
        ("decoder.cross", want.cross_attentions),
    ):
        ours = [m for m in maps if m.part == part]
        assert len(ours) == len(theirs)
        for found, weights in zip(ours, theirs, strict=True):
            assert apart(found.weights, weights[0]) <= WEIGHTS
    cross = next(m for m in maps if m.part == "decoder.cross")
    assert cross.keys == [str(i) for i in IDS] and cross.queries == ["0", *map(str, ANSWER)]
    assert apart(cross.weights.flip(-1), want.cross_attentions[0][0]) > 0.01


@pytest.mark.parametrize("name", NAMES)
def test_hidden_states_are_the_references(name: str, pair: Callable[[str], Any]) -> None:
    oracle, model = pair(name)
    want = reference(oracle, input_ids=IDS).hidden_states
    found = {s.path: s.x for s in look.states(model, IDS)}
    layers = len(model.network.blocks)
    paths = ["embed", *(f"blocks.{i}" for i in range(layers))]
    assert list(found) == [*paths, "norm"][: len(found)]
    if "norm" in found:
        paths[-1] = "norm"  # the reference's last hidden state is behind the last norm
    for path, states in zip(paths, want, strict=True):
        assert apart(found[path], states[0]) <= STATES
    assert apart(found["blocks.0"], want[0][0]) > 0.01


def test_hidden_states_of_both_halves(pair: Callable[[str], Any]) -> None:
    oracle, model = pair("t5-gated-untied")
    want = reference(oracle, input_ids=IDS, decoder_input_ids=[0, *ANSWER])
    found = {s.path: s for s in look.states(model, IDS, answer=ANSWER)}
    for half, theirs in (("encoder", want.encoder_hidden_states), ("decoder", want.decoder_hidden_states)):
        paths = [f"{half}.embed", *(f"{half}.blocks.{i}" for i in range(len(theirs) - 2)), f"{half}.norm"]
        for path, states in zip(paths, theirs, strict=True):
            assert apart(found[path].x, states[0]) <= 3 * STATES  # T5 in float32, see tests/parity
    assert found["encoder.embed"].tokens == [str(i) for i in IDS]
    assert len(found["decoder.norm"].tokens) == len(ANSWER) + 1


# --- the lens ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_the_lens_ends_in_the_models_own_logits(name: str, pair: Callable[[str], Any]) -> None:
    _, model = pair(name)
    step = Step.of([len(IDS)], Fresh())
    with torch.inference_mode():
        said = model.network(torch.tensor(IDS), step)
    layers = dict(look.layer_logits(model, IDS))
    assert next(iter(layers)) == "embed" and len(layers) == len(model.network.blocks) + 1
    *before, last = layers.values()
    assert torch.equal(last, said)
    assert all(not torch.allclose(early, said, atol=0.1) for early in before)


def test_the_lens_is_the_references(pair: Callable[[str], Any]) -> None:
    oracle, model = pair("gpt2-plain")
    want = reference(oracle, input_ids=IDS).hidden_states
    for (_, logits), states in list(zip(look.layer_logits(model, IDS), want, strict=True))[:-1]:
        with torch.no_grad():
            assert apart(logits, oracle.lm_head(oracle.transformer.ln_f(states))[0]) <= STATES


def test_the_lens_of_an_encoder_decoder(pair: Callable[[str], Any]) -> None:
    _, model = pair("t5-first")  # whose head is scaled
    network = model.network
    with torch.inference_mode():
        memory = network.encode(torch.tensor(IDS), Step.of([len(IDS)], Fresh()))
        said = network(torch.tensor([0, *ANSWER]), Step.of([1 + len(ANSWER)], Fresh(), memory=memory))
    *_, (_, last) = look.layer_logits(model, IDS, answer=ANSWER)
    assert torch.equal(last, said)
    assert look.logit_lens(model, IDS, answer=ANSWER).tokens == ["0", *map(str, ANSWER)]


def test_words_and_ranks_of_the_lens(pair: Callable[[str], Any]) -> None:
    _, model = pair("llama-grouped")
    seen = look.logit_lens(model, IDS, top=3)
    layers = [logits for _, logits in look.layer_logits(model, IDS)]
    assert seen.ids.shape == seen.probability.shape == (len(layers), len(IDS), 3)
    choice = layers[-1].argmax(-1)
    for i, logits in enumerate(layers):
        order = logits.argsort(-1, descending=True)
        assert torch.equal(seen.ids[i], order[:, :3])
        for place in range(len(IDS)):
            assert order[place].tolist().index(int(choice[place])) + 1 == seen.rank[i, place]
        torch.testing.assert_close(seen.probability[i], logits.softmax(-1).gather(1, order[:, :3]))
    assert (seen.rank[-1] == 1).all() and (seen.rank[0] > 1).any()
    assert seen.words[1][2] == [str(i) for i in seen.ids[1, 2].tolist()]


# --- what looking costs and leaves ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*NAMES, "t5-first"])
def test_looking_changes_nothing(name: str, pair: Callable[[str], Any]) -> None:
    _, model = pair(name)
    network = model.network
    ids = torch.tensor(IDS)

    def run(taps: Taps | None) -> Tensor:
        step = Step.of([4, 3], Fresh(), taps=taps)
        with torch.inference_mode():
            return network.encoder(ids, step) if name.startswith("t5") else network(ids, step)

    plain = run(None)
    assert torch.equal(plain, run(Taps(states={})))
    assert apart(run(Taps(weights={}, states={})), plain) < 1e-5
    assert torch.equal(plain, run(Taps()))


def test_without_taps_nobody_forms_the_square_of_weights(
    pair: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, model = pair("llama-grouped")

    def forbidden(*args: Any, **how: Any) -> Tensor:
        raise AssertionError("the plain form was called")

    monkeypatch.setattr(keys, "attend", forbidden)
    look.states(model, IDS)
    with pytest.raises(AssertionError, match="plain form"):
        look.attention(model, IDS)


def test_weights_of_rows_side_by_side_and_shared_and_cached(pair: Callable[[str], Any]) -> None:
    _, model = pair("llama-grouped")
    network = model.network

    def weights(lengths: list[int], ids: list[int], cache: Any) -> dict[str, Tensor]:
        kept: dict[str, Tensor] = {}
        step = Step.of(lengths, cache, taps=Taps(weights=kept))
        with torch.inference_mode():
            network(torch.tensor(ids), step)
        if isinstance(cache, Slots):
            cache.advance(step)
        return kept

    path = "blocks.1.attn"
    alone = weights([7], IDS, Fresh())[path][0]
    packed = weights([7, 3], IDS + ANSWER, Fresh())[path]
    assert apart(packed[0], alone) < 1e-5
    assert apart(packed[1, :, :3, :3], weights([3], ANSWER, Fresh())[path][0]) < 1e-5
    shared = weights([4, 3, 2], IDS[:4] + IDS[4:] + ANSWER[:2], Shared())
    assert apart(shared[f"{path}:shared"][0], alone[:, :4, :4]) < 1e-5
    assert apart(shared[path][0], alone[:, 4:]) < 1e-5
    slots = Slots(1, 9)
    weights([4], IDS[:4], slots)
    assert apart(weights([3], IDS[4:], slots)[path][0], alone[:, 4:]) < 1e-5


def test_weights_of_keys_beside(pair: Callable[[str], Any]) -> None:
    _, model = pair("gpt2-plain")
    torch.manual_seed(0)
    beside = Apart(torch.randn(4, 5, 7), torch.randn(4, 5, 7), torch.ones(5))
    kept: dict[str, Tensor] = {}
    step = Step.of([7], Fresh(), apart={"blocks.0.attn": (beside,)}, taps=Taps(weights=kept))
    with torch.inference_mode():
        model.network(torch.tensor(IDS), step)
    assert kept["blocks.0.attn:apart.0"].shape == (1, 5, 7, 4)
    torch.testing.assert_close(kept["blocks.0.attn:apart.0"].sum(-1), torch.ones(1, 5, 7))


METHODS = {"prompt": Prompt(length=3), "prefix": PrefixTuning(length=2), "llama-adapter": LlamaAdapter(length=4)}


@pytest.mark.parametrize("kind", METHODS)
def test_what_an_adapter_puts_before_a_row_is_seen_too(kind: str, pair: Callable[[str], Any]) -> None:
    _, model = pair("llama-grouped")
    tuned = gu.adapt(model, METHODS[kind])
    maps = look.attention(tuned, IDS)
    first, names = maps[0], [str(i) for i in IDS]
    if kind == "prompt":
        assert first.queries == first.keys == ["(soft 1)", "(soft 2)", "(soft 3)", *names]
    if kind == "prefix":
        assert first.queries == names and first.keys == ["(prefix 1)", "(prefix 2)", *names]
    if kind == "llama-adapter":
        beside = [m for m in maps if m.part == "attn:apart.0"]
        assert beside and all(m.keys == [f"(beside {i})" for i in range(1, 5)] for m in beside)
    for found in maps:
        torch.testing.assert_close(found.weights.sum(-1), torch.ones(found.weights.shape[:2]))
    *_, (_, last) = look.layer_logits(tuned, IDS)
    ids, step, _ = lay(tuned.network, [IDS], Fresh(), adapters=tuned.adapter)
    with torch.inference_mode():
        assert torch.equal(last, tuned.network(ids, step))


def test_what_cannot_be_looked_at_is_said(pair: Callable[[str], Any]) -> None:
    _, model = pair("gpt2-plain")
    with pytest.raises(UsageError, match="only an encoder-decoder"):
        look.attention(model, IDS, answer=[3])
    with pytest.raises(UsageError, match="no tokens"):
        look.states(model, [])
    with pytest.raises(UsageError, match="62 tokens, .* reads 61"):
        look.states(model, [3] * 62)
    with pytest.raises(UsageError, match="tokenizer"):
        look.attention(model, "a text")
    with pytest.raises(UsageError, match="top=0"):
        look.logit_lens(model, IDS, top=0)


def test_every_case_can_be_looked_at(pair: Callable[[str], Any]) -> None:
    for case in CASES:
        _, model = pair(case.name)
        assert look.attention(model, IDS) and look.states(model, IDS) and look.logit_lens(model, IDS).layers
