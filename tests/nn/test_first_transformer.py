"""The first Transformer's blocks, put together from the parts, against PyTorch's own layers: values and gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from groundup.nn.attention import Attention
from groundup.nn.block import Block, Branch
from groundup.nn.cache import Fresh
from groundup.nn.embed import Embed
from groundup.nn.linear import Embedding
from groundup.nn.mlp import MLP
from groundup.nn.norms import LayerNorm
from groundup.nn.positions import Sinusoidal
from groundup.nn.stack import name_places
from groundup.nn.step import Memory, Step

WIDTH, HEADS, INNER, LENGTHS, READ = 12, 3, 20, (5, 2, 4), (3, 6, 1)


def block(*, first: bool, causal: bool = False, cross: bool = False) -> Block:
    """`first`: the norm on the input, as torch's `norm_first`; else on the sum, as the paper has it."""

    def branch(name: str, core: nn.Module) -> Branch:
        return Branch(name, core, **{"before" if first else "after": LayerNorm(WIDTH, eps=1e-5)})

    parts = [branch("attn", Attention(WIDTH, heads=HEADS, causal=causal))]
    if cross:
        parts.append(branch("cross", Attention(WIDTH, heads=HEADS, memory_width=WIDTH)))
    made = Block(*parts, branch("mlp", MLP(WIDTH, INNER, act="relu")))
    name_places(made)
    return made.double().requires_grad_()


def torchs(kind: Callable[..., nn.Module], *, first: bool) -> nn.Module:
    """PyTorch's layer with every number redrawn: fresh gains and biases are too plain to tell a mistake."""
    torch.manual_seed(0)
    layer = kind(WIDTH, HEADS, INNER, dropout=0.0, batch_first=True, norm_first=first, dtype=torch.float64)
    for p in layer.parameters():
        nn.init.normal_(p, std=0.7)
    return layer


def copied(layer: nn.Module, ours: Block, norms: dict[str, str]) -> None:
    theirs = {n: p.detach() for n, p in layer.named_parameters()}
    pairs = {"linear1": "mlp.up", "linear2": "mlp.down", **norms}
    for name, attention in (("self_attn", "attn"), ("multihead_attn", "cross")):
        if f"{name}.in_proj_weight" in theirs:
            for part, w, b in zip(
                "qkv", theirs[f"{name}.in_proj_weight"].chunk(3), theirs[f"{name}.in_proj_bias"].chunk(3), strict=True
            ):
                theirs |= {f"{name}.{part}.weight": w, f"{name}.{part}.bias": b}
            pairs |= {f"{name}.{part}": f"{attention}.{part}" for part in "qkv"}
            pairs[f"{name}.out_proj"] = f"{attention}.o"
    wanted = dict(ours.named_parameters())
    for source, target in pairs.items():
        for kind in ("weight", "bias"):
            full = f"{target}.{kind}" if f"{target}.{kind}" in wanted else f"{target}.{kind}.values"
            wanted.pop(full).data.copy_(theirs[f"{source}.{kind}"])
    assert not wanted


def square(x: Tensor, step: Step) -> tuple[Tensor, Tensor]:
    """The padded batch that PyTorch wants, with what is filler in it."""
    return step.rows.pad(x), ~step.rows.real


def same(ours: Tensor, theirs: Tensor, x: Tensor) -> None:
    """Equal values, and equal gradients of x from a loss that is no symmetric sum."""
    torch.testing.assert_close(ours, theirs)
    torch.manual_seed(1)
    how = torch.randn_like(ours)
    for other in (ours, theirs):
        assert other.requires_grad
    a, b = (torch.autograd.grad((out * how).sum(), x, retain_graph=True)[0] for out in (ours, theirs))
    torch.testing.assert_close(a, b)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("first", [False, True])
def test_encoder_layer(first: bool, causal: bool) -> None:
    layer, ours = torchs(nn.TransformerEncoderLayer, first=first), block(first=first, causal=causal)
    copied(layer, ours, {"norm1": "attn_norm", "norm2": "mlp_norm"})
    step = Step.of(LENGTHS, Fresh())
    x = torch.randn(step.rows.total, WIDTH, dtype=torch.float64, requires_grad=True)
    padded, filler = square(x, step)
    ahead = torch.ones(5, 5, dtype=torch.bool).triu(1) if causal else None
    theirs = step.rows.unpad(layer(padded, src_mask=ahead, src_key_padding_mask=filler))
    same(ours(x, step), theirs, x)
    wrong = block(first=not first, causal=causal)
    copied(layer, wrong, {"norm1": "attn_norm", "norm2": "mlp_norm"})
    assert (wrong(x, step) - theirs).abs().max() > 0.1


@pytest.mark.parametrize("first", [False, True])
def test_decoder_layer(first: bool) -> None:
    layer, ours = torchs(nn.TransformerDecoderLayer, first=first), block(first=first, causal=True, cross=True)
    copied(layer, ours, {"norm1": "attn_norm", "norm2": "cross_norm", "norm3": "mlp_norm"})
    reading = Step.of(READ, Fresh())
    memory = torch.randn(reading.rows.total, WIDTH, dtype=torch.float64, requires_grad=True)
    step = Step.of(LENGTHS, Fresh(), memory=Memory(memory, reading))
    x = torch.randn(step.rows.total, WIDTH, dtype=torch.float64, requires_grad=True)
    (padded, filler), (read, unread) = square(x, step), square(memory, reading)
    theirs = step.rows.unpad(
        layer(
            padded,
            read,
            tgt_mask=torch.ones(5, 5, dtype=torch.bool).triu(1),
            tgt_key_padding_mask=filler,
            memory_key_padding_mask=unread,
        )
    )
    out = ours(x, step)
    same(out, theirs, x)
    same(out, theirs, memory)


def test_sinusoidal_positions_stand_in_for_learned_ones() -> None:
    waves = Sinusoidal(7)
    embed = Embed(Embedding(9, 7), positions=waves, scale=2.0)
    nn.init.normal_(embed.tokens.weight.values)
    step, ids = Step.of([4, 2], Fresh()), torch.tensor([3, 1, 4, 1, 5, 3])
    x = embed(ids, step)
    assert x.dtype == torch.float32 and [n for n, _ in embed.named_parameters()] == ["tokens.weight.values"]
    places = torch.tensor([0, 1, 2, 3, 0, 1])
    torch.testing.assert_close(x - 2 * embed.tokens.weight.rows(ids), waves.table(places).float())
    assert embed.to(torch.bfloat16)(ids, step).dtype == torch.bfloat16
