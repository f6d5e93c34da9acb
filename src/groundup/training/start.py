"""The numbers with which a model begins that has learned nothing.

One rule for every family: a product keeps the size of what goes in. A matrix gets the deviation 1 / √inputs (LeCun et
al., "Efficient BackProp", 1998, 4.6), with three exceptions:

    q           divided by scale · √head_dim, so that scores begin alike whatever scale an attention has (T5 has none)
    o, down     multiplied by the size of what their sum is added to, and divided by √(branches), so that a stack's
                depth does not make it grow (Radford et al., GPT-2, 2019, section 2.3)
    embeddings  1 / √width / the head's own scale where the head is the embedding (logits begin at size 1), else 1

Short filters [channels, taps] begin as matrices do, at 1 / √taps. Gains begin at 1, biases and T5's numbers for
distances at 0.
"""

from __future__ import annotations

import torch
from torch import nn

from groundup.nn.attention import Attention
from groundup.nn.linear import Embedding, Linear
from groundup.nn.norms import RMSNorm
from groundup.nn.positions import RelativeBias
from groundup.nn.stack import EncoderDecoder, Stack

ENDS = ("attn.o", "cross.o", "mix.o", "mlp.down")


def begin(network: nn.Module, seed: int = 0) -> None:
    """Fill this very network with the numbers of `seed`."""
    draw = torch.Generator().manual_seed(seed)
    widths = deviations(network)
    centred = {f"{path}.weight" for path, part in network.named_modules() if isinstance(part, RMSNorm) and part.centred}
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            path = name.removesuffix(".weight.values")
            if path in widths:
                parameter.copy_(torch.randn(parameter.shape, generator=draw) * widths[path])
            elif name.endswith("bias") or name in centred:
                parameter.zero_()
            elif parameter.ndim == 2:
                parameter.copy_(torch.randn(parameter.shape, generator=draw) * parameter.shape[1] ** -0.5)
            else:
                parameter.fill_(1.0)


def deviations(network: nn.Module) -> dict[str, float]:
    """The deviation of every matrix and table, by name."""
    found: dict[str, float] = {}
    modules = dict(network.named_modules())
    stacks = {name: part for name, part in modules.items() if isinstance(part, Stack)}
    sizes = {name: _embedding(network, stack) for name, stack in stacks.items()}
    for path, part in modules.items():
        if isinstance(part, Embedding):
            stack = next(name for name in stacks if not name or path.startswith(f"{name}."))
            parent = modules[path.rpartition(".")[0]]
            found[path] = 0.0 if isinstance(parent, RelativeBias) else sizes[stack]
        elif isinstance(part, Linear):
            found[path] = part.in_features**-0.5
            parent = modules[path.rpartition(".")[0]]
            if isinstance(parent, Attention) and path.endswith(".q"):
                found[path] *= parent.head_dim**-0.5 / parent.scale
            if path.endswith(ENDS):
                stack = next(name for name in stacks if not name or path.startswith(f"{name}."))
                branches = sum(name.endswith(ENDS) and name.startswith(stack) for name in modules)
                embed = stacks[stack].embed
                found[path] *= (1.0 if embed.norm is not None else sizes[stack] * embed.scale) * branches**-0.5
    return found


def _embedding(network: nn.Module, stack: Stack) -> float:
    """The deviation of a stack's embeddings."""
    head = getattr(network, "head", None)
    out = getattr(head, "out", head)
    tokens = stack.embed.tokens
    if not isinstance(out, Linear) or out.weight is not tokens.weight:
        return 1.0
    scale = network.head_scale if isinstance(network, EncoderDecoder) else 1.0
    return tokens.width**-0.5 / scale
