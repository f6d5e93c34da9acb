"""How a model tells places apart, and which of them a token may see: position tables and masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from groundup.core.errors import UsageError
from groundup.model import Model
from groundup.nn.attention import Attention
from groundup.nn.cache import Fresh
from groundup.nn.linear import Embedding
from groundup.nn.positions import Alibi, Bias, Rotary, Sinusoidal, frequencies
from groundup.nn.stack import EncoderDecoder, Stack
from groundup.nn.step import Step, Taps

FORMULAS = ("sinusoidal", "rotary", "alibi")
MASKS = ("causal", "both", "window")


@dataclass(frozen=True)
class Positions:
    """One way of telling L places apart, in numbers.

    kind    sinusoidal, learned: [L, D], added to the token at each place
            rotary: [L, 2 · pairs], the cosines of the angles by which pairs of a head's numbers turn, then the sines
            alibi, buckets: [H, L, L], added to each head's score of query (line) and key (column)
    path    where in the model; "" for a formula
    """

    kind: str
    path: str
    values: Float[Tensor, "L D"] | Float[Tensor, "H L L"]


def positions(
    of: Model | str, length: int = 64, *, width: int = 64, heads: int = 8, base: float = 10000.0
) -> list[Positions]:
    """The tables of a model, of each half where there are two; or of a formula.

    width (of the model, for rotary of a head), heads and base are the formula's; a model has its own.
    Raises UsageError for a model that has no positions, or fewer than `length`.
    """
    if length < 1 or width < 1 or heads < 1:
        raise UsageError(f"length {length}, width {width}, heads {heads}: all must be 1 or more")
    if isinstance(of, Model):
        network = of.network
        stacks = (network.encoder, network.decoder) if isinstance(network, EncoderDecoder) else (network,)
        found = [table for stack in stacks for table in _of_stack(stack, length)]
        if not found:
            raise UsageError(f"{of.origin.name} has no positions to show")
        return found
    if of == "sinusoidal":
        return [Positions(of, "", sinusoidal(length, width, base))]
    if of == "rotary":
        return [Positions(of, "", _turns(Rotary(frequencies(width, base)), length))]
    if of == "alibi":
        return [Positions(of, "", _added(Alibi(heads), length))]
    raise UsageError(f"no positions called {of!r}: there are {', '.join(FORMULAS)}, and those of a model")


def sinusoidal(length: int, width: int, base: float = 10000.0) -> Float[Tensor, "L D"]:
    """The first `length` places of `groundup.nn.positions.Sinusoidal`."""
    return Sinusoidal(width, base=base).table(torch.arange(length)).float()


def _of_stack(stack: Stack, length: int) -> list[Positions]:
    found = []
    places = stack.embed.positions
    if isinstance(places, Sinusoidal):
        waves = places.table(torch.arange(length)).float()
        found.append(Positions("sinusoidal", f"{stack.path}embed.positions", waves))
    if isinstance(places, Embedding):
        first_row = stack.embed.first_position
        if length > places.entries - first_row:
            raise UsageError(f"this model knows {places.entries - first_row} positions, not {length}: ask for fewer")
        rows = places.weight.rows(torch.arange(first_row, first_row + length, device=_device(stack)))
        found.append(Positions("learned", f"{stack.path}embed.positions", rows.detach().float()))
    first = next((part for part in stack.modules() if isinstance(part, Attention) and not part.cross), None)
    if first is not None and first.rotary is not None:
        found.append(Positions("rotary", first.path, _turns(first.rotary, length)))
    if first is not None and first.score_bias is not None:
        kind = "alibi" if isinstance(first.score_bias, Alibi) else "buckets"
        found.append(Positions(kind, first.path, _added(first.score_bias, length, _device(stack))))
    return found


def _device(stack: Stack) -> torch.device:
    return next(stack.parameters()).device


def _turns(rotary: Rotary, length: int) -> Float[Tensor, "L D"]:
    cos, sin = rotary.table(torch.arange(length), torch.float32)
    pairs = len(rotary.frequencies)
    return torch.cat((cos[:, 0, :pairs], sin[:, 0, pairs:]), dim=1)  # the first half of the sines has the other sign


def _added(bias: Bias, length: int, device: torch.device | str = "cpu") -> Float[Tensor, "H L L"]:
    places = torch.arange(length, device=device)[None]
    with torch.no_grad():
        return bias(places, places)[0].float()


def mask(kind: str, lengths: int | Sequence[int], *, window: int = 4) -> Bool[Tensor, "T T"]:
    """True where a token (line) sees another (column); rows of several lengths are packed end to end.

    kind: causal, both (ways), or window (causal, and no further back than `window` - 1 tokens). This is attention
    itself: all scores are equal, and what a token takes of another is above zero where it sees it.
    """
    rows = [lengths] if isinstance(lengths, int) else list(lengths)
    if kind not in MASKS:
        raise UsageError(f"no mask called {kind!r}: there are {', '.join(MASKS)}")
    if not rows or min(rows) < 1 or window < 1:
        raise UsageError(f"rows of {', '.join(map(str, rows)) or 'no'} tokens, window {window}: all must be 1 or more")
    weights: dict[str, Tensor] = {}
    step = Step.of(rows, Fresh(), taps=Taps(weights=weights))
    same = torch.zeros(sum(rows), 1, 1)
    reach = window if kind == "window" else None
    step.cache.write("", same, same, step).attend(same, step, causal=kind != "both", scale=1.0, window=reach)
    whole = torch.zeros(sum(rows), sum(rows), dtype=torch.bool)
    for square, begin, end in zip(weights[""][:, 0], step.rows.starts, step.rows.starts[1:], strict=False):
        whole[begin:end, begin:end] = square[: end - begin, : end - begin] > 0
    return whole


def by_distance(table: Float[Tensor, "H L L"], *, ahead: bool = True) -> Float[Tensor, "H D"]:
    """Each head's bias by how far the key stands from the query: -(L - 1) ... 0, and with `ahead` on to L - 1."""
    back = table[:, -1, :]  # the last query: all keys stand before it
    return torch.cat((back, table[:, 0, 1:]), dim=1) if ahead else back
