"""Hyena: long convolutions and gates in place of attention (Poli et al., arXiv 2302.10866).

    x ── in ──[ short causal filter of each channel ]── x0, x1 ... xN, v
    v ← v · xi,  v ← h ∗ v + d v    for xN ... x1 but the last       (order N: N - 1 long convolutions)
    y = out(x0 · v)                                                  section 3.1, as the authors' standalone code has it

A filter h is as long as the context, and is no table: an MLP with sines makes it from the place in it, under a window
that falls off at a different rate in each channel (section 3.3). The convolution goes through Fourier's transform, so
that a row of L tokens costs L log L.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from groundup.nn.linear import Linear
from groundup.nn.step import Step

SHORT = 3  # taps of the short filters
FAST, SLOW, TARGET = (
    0.3,
    1.5,
    1e-2,
)  # a window has fallen to 0.01 after 0.3 of the context in the fastest channel, 1.5 in the slowest
SPEED = 10.0  # of the sines at the start


def convolve(x: Float[Tensor, "B L D"], h: Float[Tensor, "L D"]) -> Float[Tensor, "B L D"]:
    """y[n] = Σ h[m] x[n - m] over m ≤ n in each channel, by Fourier's transform of twice the length (equation 4).

    Half precision is computed in float32.
    """
    length, wide = x.shape[1], torch.float64 if x.dtype == torch.float64 else torch.float32
    size = 2 * length  # what would come round from behind falls into the second half
    product = torch.fft.rfft(x.to(wide), n=size, dim=1) * torch.fft.rfft(h.to(wide), n=size, dim=0)
    return torch.fft.irfft(product, n=size, dim=1)[:, :length].to(x.dtype)


class LongFilter(nn.Module):
    """h [L, channels]: window(t) · MLP(t, waves of t) with sines between its linears (sections 3.3, D.3).

    context  the longest row: t runs from 0 to 1 over it, so that h[m] is the same for rows of every length
    bands    waves of t that the MLP is shown

    It is the same for all rows, so its matrices are plain parameters: no adapter of a row has a place in it.
    """

    def __init__(self, channels: int, *, context: int, inner: int = 64, bands: int = 8, layers: int = 3):
        super().__init__()
        self.channels, self.context, self.bands = channels, context, bands
        sizes = [2 * bands + 1, *(inner for _ in range(layers))]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.turns = nn.Parameter(torch.ones(inner))  # of the sines, times SPEED
        self.out = nn.Linear(inner, channels, bias=False)
        self.requires_grad_(False)

    def forward(self, length: int, like: Float[Tensor, "..."]) -> Float[Tensor, "L C"]:
        """The first `length` numbers of each filter, in float32 at least."""
        exact = torch.float64 if like.dtype == torch.float64 else torch.float32
        place = torch.arange(length, dtype=exact, device=like.device)
        t = (place / max(self.context - 1, 1))[:, None]
        bands = torch.linspace(1e-4, max(self.bands - 1, 1e-4), self.bands, dtype=exact, device=like.device)
        waves = bands * (2 * math.pi / self.context * place)[:, None]
        h = torch.cat((t, waves.cos(), -waves.sin()), 1)
        for layer in self.layers:
            assert isinstance(layer, nn.Linear)
            h = nn.functional.linear(h, layer.weight.to(exact), layer.bias.to(exact))
            h = torch.sin(SPEED * self.turns.to(exact) * h)
        ends = (math.log(TARGET) / FAST, math.log(TARGET) / SLOW)
        rates = torch.linspace(ends[1], ends[0], self.channels, dtype=exact, device=like.device).abs()
        return nn.functional.linear(h, self.out.weight.to(exact)) * torch.exp(-t * rates)


class Hyena(nn.Module):
    """The Hyena operator: a core that stands in a block where attention stands, and knows places by its filters.

    context  the longest row
    order    gates; order - 1 long convolutions stand between them
    inner    width of the MLP that makes the filters, and `bands` how many waves of the place it is shown

    Decoding keeps order + 1 vectors a token and computes the convolutions of the whole row again for each new token:
    exact, at L log L a token, where attention costs L and retention 1. Shapes: x [T, width] -> [T, width].
    """

    def __init__(self, width: int, *, context: int, order: int = 2, inner: int = 64, bands: int = 8, bias: bool = True):
        super().__init__()
        if order < 2:
            raise ValueError(f"a Hyena of order {order} has no long convolution: give 2 or more")
        self.width, self.order, self.context = width, order, context
        self.proj = Linear(width, (order + 1) * width, bias=bias)
        self.short = nn.Parameter(torch.empty((order + 1) * width, SHORT), requires_grad=False)
        self.short_bias = nn.Parameter(torch.zeros((order + 1) * width), requires_grad=False)
        self.filter = LongFilter((order - 1) * width, context=context, inner=inner, bands=bands)
        self.skip = nn.Parameter(torch.ones((order - 1) * width), requires_grad=False)
        self.o = Linear(width, width, bias=bias)
        self.path = ""  # where the cache keeps this part's streams; given once by the network that it stands in

    def forward(self, x: Float[Tensor, "T D"], step: Step) -> Float[Tensor, "T D"]:
        streams = self.proj(x, step).unflatten(-1, (self.order + 1, self.width))
        held = step.cache.write(self.path, streams, streams[..., :0], step)
        return self.o(held.over(lambda all, past: self._mixed(all, past, step), step), step)

    def _mixed(self, streams: Float[Tensor, "B S N D"], past: tuple[int, ...], step: Step) -> Float[Tensor, "B L D"]:
        length, longest = streams.shape[1], step.rows.longest
        u = streams.flatten(2)
        taps = self.short.to(u.dtype)
        near = self.short_bias.to(u.dtype) + u * taps[:, -1]
        for back in range(1, min(SHORT, length)):
            near = near + nn.functional.pad(u[:, :-back], (0, 0, back, 0)) * taps[:, -1 - back]
        first, *gates, v = near.split(self.width, -1)
        filters = self.filter(length, u).split(self.width, -1)
        for gate, h, d in zip(reversed(gates), filters, self.skip.to(u.dtype).split(self.width), strict=True):
            v = v * gate
            v = convolve(v, h) + v * d
        mixed = first * v
        if len(set(past)) == 1:
            return mixed[:, past[0] : past[0] + longest]
        places = torch.tensor(past, device=u.device)[:, None] + torch.arange(longest, device=u.device)
        index = places.clamp(max=length - 1)[..., None].expand(-1, -1, self.width)  # filler behind short rows
        return mixed.gather(1, index)
