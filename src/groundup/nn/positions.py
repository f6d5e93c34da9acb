"""How a model knows where a token stands: waves added to its vector, rotated queries and keys, or a bias on the scores.

Learned positions are an `Embedding` (see `embed.py`). Everything here is a function of positions alone, so that
packed rows, cached steps and prompts of different lengths are one case.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from groundup.nn.linear import Embedding
from groundup.nn.step import Step


class Sinusoidal:
    """sin(p / base^(2i/D)) at 2i, the cosine at 2i + 1 (Vaswani et al., arXiv 1706.03762, section 3.5).

    Added to the tokens' vectors like learned positions, without numbers of its own and without an end; D may be odd.
    Shapes: positions [T] -> [T, D], in float64.
    """

    def __init__(self, width: int, *, base: float = 10000.0):
        self.width, self.base = width, base

    def table(self, positions: Int[Tensor, " T"]) -> Float[Tensor, "T D"]:
        pairs = torch.arange(0, self.width, 2, dtype=torch.float64, device=positions.device)
        angles = positions.to(torch.float64)[:, None] * self.base ** (-pairs / self.width)
        return torch.stack((angles.sin(), angles.cos()), dim=2).flatten(1)[:, : self.width]

    def __call__(self, positions: Int[Tensor, " T"], step: Step) -> Float[Tensor, "T D"]:
        return self.table(positions)


class Rotary:
    """Turns pairs of a head's numbers by an angle that grows with the position (Su et al., arXiv 2104.09864, eq. 34).

    Number i of the first half is paired with number i of the second; the pair turns by position · frequency[i].
    Checkpoints that pair neighbours instead are permuted at the border (`rotary` in the name rules).

    frequencies  [pairs] radians a position; heads wider than 2 · pairs keep the rest as it is
    factor       multiplies cosine and sine (YaRN's temperature)
    """

    def __init__(self, frequencies: Sequence[float], *, factor: float = 1.0):
        self.frequencies = tuple(frequencies)
        self.factor = factor

    def table(self, positions: Int[Tensor, " T"], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosine and signed sine [T, 1, 2 · pairs] of every position, for both numbers of each pair."""
        exact = torch.float64 if dtype == torch.float64 else torch.float32
        frequencies = torch.tensor(self.frequencies, dtype=exact, device=positions.device)
        angles = positions.to(exact)[:, None, None] * frequencies
        cos, sin = angles.cos() * self.factor, angles.sin() * self.factor
        return torch.cat((cos, cos), -1).to(dtype), torch.cat((-sin, sin), -1).to(dtype)

    def __call__(self, x: Float[Tensor, "T H Dh"], step: Step) -> Float[Tensor, "T H Dh"]:
        cos, sin = step.fact((self, x.dtype), lambda: self.table(step.positions, x.dtype))
        pairs = len(self.frequencies)
        a, b, *rest = x.split((pairs, pairs, x.shape[-1] - 2 * pairs), dim=-1)
        whole = x if x.shape[-1] == 2 * pairs else x[..., : 2 * pairs]
        turned = torch.addcmul(whole * cos, torch.cat((b, a), dim=-1), sin)  # (a cos - b sin, b cos + a sin)
        return turned if whole is x else torch.cat((turned, *rest), dim=-1)


def frequencies(head_dim: int, base: float) -> list[float]:
    """base ** (-2i / head_dim) for every pair i. Computed in float32, as the reference implementations do."""
    return (1.0 / base ** (torch.arange(0, head_dim, 2, dtype=torch.int64, device="cpu").float() / head_dim)).tolist()


def scaled_linear(freqs: Sequence[float], factor: float) -> list[float]:
    """Positions shrink by `factor` (position interpolation, arXiv 2306.15595)."""
    return (torch.tensor(freqs, device="cpu") / factor).tolist()


def scaled_llama3(
    freqs: Sequence[float], *, factor: float, low_freq_factor: float, high_freq_factor: float, original: int
) -> list[float]:
    """Llama 3.1's scaling: long waves shrink by `factor`, short ones stay, those between blend."""
    f = torch.tensor(freqs, device="cpu")
    wave = 2 * math.pi / f
    low, high = original / low_freq_factor, original / high_freq_factor
    smooth = (original / wave - low_freq_factor) / (high_freq_factor - low_freq_factor)
    blended = (1 - smooth) * f / factor + smooth * f
    out = torch.where(wave > low, f / factor, torch.where(wave < high, f, blended))
    return out.tolist()


def scaled_yarn(
    freqs: Sequence[float],
    *,
    factor: float,
    base: float,
    head_dim: int,
    original: int,
    beta_fast: float = 32.0,
    beta_slow: float = 1.0,
    truncate: bool = True,
) -> list[float]:
    """YaRN (Peng et al., arXiv 2309.00071, section 3.2): pairs that turn often stay, those that turn seldom shrink."""

    def pair(turns: float) -> float:  # the pair that turns so often over the original context
        return head_dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(base))

    low, high = pair(beta_fast), pair(beta_slow)
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    high = high + 0.001 if low == high else high
    f = torch.tensor(freqs, device="cpu")
    ramp = ((torch.arange(len(freqs), dtype=torch.float32, device="cpu") - low) / (high - low)).clamp(0, 1)
    return (f / factor * ramp + f * (1 - ramp)).tolist()


def yarn_temperature(factor: float, weight: float = 1.0) -> float:
    """What YaRN multiplies cosine and sine by: 0.1 · weight · ln(factor) + 1."""
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0


@runtime_checkable
class Bias(Protocol):
    """Something added to the scores that depends on positions alone."""

    trains: bool

    def __call__(
        self, q_positions: Int[Tensor, "#B #L"], k_positions: Int[Tensor, "#B S"]
    ) -> Float[Tensor, "#B H #L S"]: ...


class Alibi:
    """-slope · distance on every score (Press et al., arXiv 2108.12409).

    The slopes of 2^n heads are a geometric row; other head counts take every second slope of the next row.
    """

    trains = False

    def __init__(self, heads: int):
        whole = 2 ** math.floor(math.log2(heads))
        slopes = [2 ** (-8 * (i + 1) / whole) for i in range(whole)]
        slopes += [2 ** (-4 * (2 * i + 1) / whole) for i in range(heads - whole)]
        self.slopes = slopes

    def __call__(
        self, q_positions: Int[Tensor, "#B #L"], k_positions: Int[Tensor, "#B S"]
    ) -> Float[Tensor, "#B H #L S"]:
        # softmax does not see what is the same for all keys, so the key's position alone would do under a causal
        # mask; the distance is kept since it stays small and so exact
        distance = (q_positions[:, None, :, None] - k_positions[:, None, None, :]).float()
        slopes = torch.tensor(self.slopes, device=distance.device)
        return -slopes[:, None, None] * distance


class RelativeBias(nn.Module):
    """One learned number a head for every bucket of distances (Raffel et al., arXiv 1910.10683, section 2.1).

    Half of the buckets are single distances, the others widen logarithmically up to `furthest`. In both directions
    (an encoder), each has half of the buckets.
    """

    def __init__(self, heads: int, *, buckets: int, furthest: int, both_ways: bool):
        super().__init__()
        self.buckets, self.furthest, self.both_ways = buckets, furthest, both_ways
        self.table = Embedding(buckets, heads)

    @property
    def trains(self) -> bool:
        return any(p.requires_grad for p in self.parameters())

    def bucket(self, distance: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
        """The bucket of key position - query position."""
        buckets, first = self.buckets, torch.zeros_like(distance)
        if self.both_ways:
            buckets //= 2
            first = (distance > 0).long() * buckets
            distance = distance.abs()
        else:
            distance = -distance.clamp(max=0)
        exact = buckets // 2
        wide = torch.log(distance.float() / exact) / math.log(self.furthest / exact) * (buckets - exact)
        far = (exact + wide.clamp(min=0).long()).clamp(max=buckets - 1)  # distance 0 gives -inf, never used
        return first + torch.where(distance < exact, distance, far)

    def forward(
        self, q_positions: Int[Tensor, "#B #L"], k_positions: Int[Tensor, "#B S"]
    ) -> Float[Tensor, "#B H #L S"]:
        ids = self.bucket(k_positions[:, None, :] - q_positions[:, :, None])  # [B, L, S]
        return self.table.weight.rows(ids.flatten()).unflatten(0, ids.shape).permute(0, 3, 1, 2)
