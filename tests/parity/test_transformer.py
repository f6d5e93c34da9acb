"""The first Transformer and its halves against PyTorch's own modules, which read the files that we write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import groundup as gu
from groundup import models
from groundup.checkpoints.load import load
from groundup.checkpoints.save import write
from groundup.core.errors import UsageError
from groundup.nn.cache import Fresh, Slots
from groundup.nn.stack import EncoderDecoder
from groundup.nn.step import Step
from parity.oracles import memory_of

ROWS = tuple(torch.randint(41, (n,), generator=torch.Generator().manual_seed(n)) for n in (5, 11, 1, 7))
READ = tuple(torch.randint(41, (n,), generator=torch.Generator().manual_seed(90 + n)) for n in (3, 9, 13, 1))
SMALL = {"vocab_size": 41, "d_model": 15, "num_heads": 3, "d_ff": 22}
CASES: dict[str, dict[str, Any]] = {
    "paper": {"encoder_layers": 2, "decoder_layers": 3},
    "learned": {"encoder_layers": 1, "decoder_layers": 2, "positions": 17, "scaled": False, "activation": "gelu"},
    "untied": {"encoder_layers": 2, "decoder_layers": 1, "tie_word_embeddings": False, "head_bias": True},
    "decoder": {"encoder_layers": None, "decoder_layers": 3, "tie_word_embeddings": False, "head_bias": True},
    "decoder-tied": {"encoder_layers": None, "decoder_layers": 2, "layer_norm_eps": 2e-3},
    "encoder": {"encoder_layers": 3, "decoder_layers": None, "positions": 17, "scaled": False},
    "encoder-headless": {"encoder_layers": 2, "decoder_layers": None, "head": False},
}


def waves(length: int, width: int) -> Tensor:
    """The paper's table, number by number."""
    place, i = torch.arange(length)[:, None].double(), torch.arange(width)
    angle = place / 10000 ** (2 * (i // 2) / width)
    return torch.where(i % 2 == 0, angle.sin(), angle.cos()).float()


class Oracle(nn.Module):
    """Embeddings and a head around `nn.TransformerEncoder` and `nn.TransformerDecoder`, by our files' names."""

    def __init__(self, c: Any):
        super().__init__()
        how = {"nhead": c.num_heads, "dim_feedforward": c.d_ff, "dropout": 0.0, "activation": c.activation}
        how |= {"layer_norm_eps": c.layer_norm_eps, "batch_first": True}
        self.c, self.whole = c, c.encoder_layers is not None and c.decoder_layers is not None
        layer = nn.TransformerEncoderLayer(c.d_model, **how)
        first = nn.TransformerEncoder(layer, c.encoder_layers or c.decoder_layers, enable_nested_tensor=False)
        halves: list[nn.Module] = [first]
        if self.whole:
            self.encoder = first
            self.decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(c.d_model, **how), c.decoder_layers)
            halves.append(self.decoder)
        else:
            self.layers = first.layers
        for half in halves if self.whole else [self]:
            half.embed = nn.Embedding(c.vocab_size, c.d_model)
            if c.positions is not None:
                half.positions = nn.Embedding(c.positions, c.d_model)
        self.head = nn.Linear(c.d_model, c.vocab_size, bias=c.head_bias) if c.head else nn.Identity()

    def read(self, folder: Path) -> Oracle:
        held = load_file(folder / "model.safetensors")
        if self.whole:
            held["decoder.embed.weight"] = held["encoder.embed.weight"]
        if self.c.head:
            held.setdefault("head.weight", held["encoder.embed.weight" if self.whole else "embed.weight"])
        self.load_state_dict(held, strict=True)
        return self.eval()

    def begin(self, half: Any, ids: Tensor) -> Tensor:
        x = half.embed(ids) * (self.c.d_model**0.5 if self.c.scaled else 1.0)
        places = waves(len(ids), self.c.d_model) if self.c.positions is None else half.positions.weight[: len(ids)]
        return (x + places)[None]

    @torch.no_grad()
    def forward(self, ids: Tensor, read: Tensor) -> Tensor:
        ahead = torch.ones(len(ids), len(ids), dtype=torch.bool).triu(1)
        if self.whole:
            x = self.decoder(
                self.begin(self.decoder, ids), self.encoder(self.begin(self.encoder, read)), tgt_mask=ahead
            )
        else:
            x = self.begin(self, ids)
            for layer in self.layers:
                x = layer(x, src_mask=None if self.c.decoder_layers is None else ahead)
        return self.head(x)[0]


def cached(network: Any, size: int) -> list[Tensor]:
    """`size` tokens of every row a call."""
    cache, out = Slots(4, 11), [[] for _ in ROWS]
    for begin in range(0, 11, size):
        going = [i for i, row in enumerate(ROWS) if begin < len(row)]
        parts = [ROWS[i][begin : begin + size] for i in going]
        read = [READ[i] for i in going]
        memory = memory_of(network, read) if begin == 0 and isinstance(network, EncoderDecoder) else None
        step = Step.of([len(p) for p in parts], cache, slots=going, memory=memory)
        for i, part in zip(going, network(torch.cat(parts), step).split([len(p) for p in parts]), strict=True):
            out[i].append(part)
        cache.advance(step)
    return [torch.cat(o) for o in out]


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_same_numbers(name: str, tmp_path: Path) -> None:
    config = models.transformer.Config(**SMALL, **CASES[name])
    ours = gu.build(config, seed=3, std=0.3)
    for place, parameter in ours.network.named_parameters():
        if parameter.ndim == 1:
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(place))) * 0.3)
    write(tmp_path, ours.network, ours.family, config)
    again = load(tmp_path)
    assert again.config == config
    oracle = Oracle(config).read(tmp_path)
    want = [oracle(ids, read) for ids, read in zip(ROWS, READ, strict=True)]
    for network in (ours.network, again.network):
        memory = memory_of(network, READ) if oracle.whole else None
        step = Step.of([len(r) for r in ROWS], Fresh(), memory=memory)
        call = network if config.head else network.run
        torch.testing.assert_close(call(torch.cat(ROWS), step), torch.cat(want), rtol=0, atol=1e-5)
        if config.decoder_layers is not None:
            for size in (1, 3):
                torch.testing.assert_close(torch.cat(cached(network, size)), torch.cat(want), rtol=0, atol=1e-5)
    if name == "paper":  # the control: without the order of tokens the numbers are others
        ours.network.decoder.embed.positions = None
        assert (torch.cat(cached(ours.network, 3)) - torch.cat(want)).abs().max() > 0.01


def test_it_learns_from_a_recipe(tmp_path: Path) -> None:
    rows = [{"prompt": f"say {w}", "completion": w} for w in ("one", "two", "three", "four")] * 8
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    sizes = {"d_model": 16, "num_heads": 2, "d_ff": 32, "encoder_layers": 1, "decoder_layers": 1}
    recipe = {
        "family": "transformer", "model": sizes, "tokenizer": {"kind": "word", "vocabulary": 40},
        "data": str(tmp_path / "rows.jsonl"), "schedule": "inverse-sqrt", "warmup": 0.2, "label_smoothing": 0.1,
        "steps": 60, "learning_rate": 1e-2, "precision": "float32",
    }  # fmt: skip
    gu.pretrain(recipe, out=tmp_path / "run")
    model = gu.load(tmp_path / "run")
    assert model.generate(["say two", "say four"], max_tokens=3, temperature=0) == ["two", "four"]
    with pytest.raises(UsageError, match="no key heads"):
        gu.pretrain({**recipe, "model": {"heads": 2}}, out=tmp_path / "other")
