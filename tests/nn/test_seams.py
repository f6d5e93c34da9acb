"""The two seams of soft prompts and prefixes, against the reference library's own: vectors that stand in for tokens, and
keys that stand before a row."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from groundup.checkpoints.load import load
from groundup.nn.attention import Attention
from groundup.nn.cache import Fresh, Slots
from groundup.nn.step import Apart, Spliced, Step

IDS = {"vocab_size": 97, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
MODELS = {
    "llama": {"hidden_size": 36, "num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 2,
              "intermediate_size": 37, "max_position_embeddings": 64},
    "gpt2": {"n_embd": 35, "n_layer": 2, "n_head": 5, "n_positions": 64},
    "bloom": {"hidden_size": 30, "n_layer": 2, "n_head": 5},
}  # fmt: skip
LENGTHS = (5, 11, 1, 7)


@pytest.fixture(scope="module", params=MODELS)
def both(request, tmp_path_factory):
    """(reference, ours) with the same random numbers."""
    config = transformers.AutoConfig.for_model(request.param, **IDS, **MODELS[request.param])
    reference = transformers.AutoModelForCausalLM.from_config(config).eval()
    generator = torch.Generator().manual_seed(2)
    for parameter in reference.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.25
    folder: Path = tmp_path_factory.mktemp(request.param)
    reference.save_pretrained(folder)
    return reference, load(folder).network


def texts() -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(5)
    return [torch.randint(3, 97, (n,), generator=draw) for n in LENGTHS]


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    assert (ours - theirs).abs().max() <= 1e-5 * max(1.0, float(theirs.abs().max()))


def test_spliced_vectors_are_the_references_input_embeddings(both):
    reference, network = both
    ids = texts()
    table = reference.get_input_embeddings()
    soft = torch.randn(3, table.weight.shape[1], generator=torch.Generator().manual_seed(1))
    at = torch.tensor([1, 2, 7])  # two places of the first row, one of the second
    embedded = torch.cat([table(i) for i in ids]).index_copy(0, at, soft)
    with torch.no_grad():
        theirs = [reference(inputs_embeds=e[None]).logits[0] for e in embedded.split(LENGTHS)]
        step = Step.of(LENGTHS, Fresh(), spliced=Spliced(at, soft))
        close(network(torch.cat(ids), step), torch.cat(theirs))


def prefix(network) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    draw = torch.Generator().manual_seed(8)
    found = {}
    for part in network.modules():
        if isinstance(part, Attention):
            shape = (4, part.kv_heads, part.head_dim)
            found[part.path] = (torch.randn(shape, generator=draw), torch.randn(shape, generator=draw))
    return found


def with_past(reference, row: torch.Tensor, start) -> torch.Tensor:
    cache = transformers.DynamicCache()
    for layer, (k, v) in enumerate(start.values()):
        cache.update(k.transpose(0, 1)[None], v.transpose(0, 1)[None], layer)
    mask = torch.ones(1, len(row) + 4, dtype=torch.long)
    return reference(input_ids=row[None], past_key_values=cache, attention_mask=mask).logits[0]


def test_a_joined_prefix_is_the_references_past_keys(both):
    reference, network = both
    ids, start = texts(), prefix(network)
    with torch.no_grad():
        theirs = torch.cat([with_past(reference, i, start) for i in ids])
        cache = Fresh()
        for path, (k, v) in start.items():
            cache.start(path, range(len(ids)), k, v)
        close(network(torch.cat(ids), Step.of(LENGTHS, cache)), theirs)
        without = network(torch.cat(ids), Step.of(LENGTHS, Fresh()))
        assert (without - theirs).abs().max() > 1e-2


def test_a_joined_prefix_in_the_cache_of_generation(both):
    reference, network = both
    ids, start = texts(), prefix(network)
    cache, slots = Slots(6, 24), [4, 0, 2, 5]
    for path, (k, v) in start.items():
        cache.start(path, slots, k, v)
    with torch.no_grad():
        theirs = torch.cat([with_past(reference, i, start) for i in ids])
        step = Step.of(LENGTHS, cache, slots=slots)
        close(network(torch.cat(ids), step), theirs)


def test_keys_apart_have_their_own_softmax_and_a_gate(both):
    """A gate at zero changes nothing; otherwise the result is the plain sum of two attentions, before `o`."""
    _, network = both
    part = next(m for m in network.modules() if isinstance(m, Attention))
    k, v = prefix(network)[part.path]
    x = torch.randn(sum(LENGTHS), part.q.in_features, generator=torch.Generator().manual_seed(3))
    gate = torch.linspace(-1, 1, part.heads)
    with torch.no_grad():
        plain = Step.of(LENGTHS, Fresh())
        shut = Step.of(LENGTHS, Fresh(), apart={part.path: (Apart(k, v, gate * 0),)})
        assert torch.equal(part(x, shut), part(x, plain))
        q = part.q(x, plain).unflatten(-1, (part.heads, part.head_dim))
        q = q if part.rotary is None else part.rotary(q, plain)
        groups = part.heads // part.kv_heads
        scores = torch.einsum("thd,phd->htp", q, k.repeat_interleave(groups, 1)) * part.scale
        seen = torch.einsum("htp,phd->thd", scores.softmax(-1), v.repeat_interleave(groups, 1)) * gate[:, None]
        added = seen.flatten(1) @ part.o.weight.dense().T
        open_ = Step.of(LENGTHS, Fresh(), apart={part.path: (Apart(k, v, gate),)})
        close(part(x, open_), part(x, plain) + added)
