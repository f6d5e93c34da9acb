"""What an adapter puts before a row: vectors in place of tokens, keys that the cache begins with, or keys beside.

    ids                 v v v t t t t        v: vectors of a soft prompt (the embedding seam)
    keys in attention   p p k k k k k        p: a prefix of keys and values at every layer (the prefix seam, `joined`)
    beside              a a                  a: keys with a softmax of their own (the prefix seam, `apart`)

Of adapters that a row uses one over the other ("a+b"), a's stands first. `lay` builds the call for any rows: whoever runs a network with adapters asks it, so that training, answering and
scoring put the same things in the same places.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from groundup.core.errors import UsageError
from groundup.nn.cache import Fresh
from groundup.nn.stack import EncoderDecoder
from groundup.nn.step import Apart, Cache, Memory, Spliced, Step, stacked

PART = "~"  # between a mixture's name and the number of one of its prompts
Keys = Mapping[str, tuple[Float[Tensor, "P Hkv Dh"], Float[Tensor, "P Hkv Dh"]]]


class Front(nn.Module):
    """What one adapter puts before the rows that use it; a method overrides what it needs.

    tokens  places that it takes at the beginning of a row
    """

    tokens: int = 0

    def vectors(self) -> Float[Tensor, "P D"] | None:
        """Stand-ins for the embeddings of P tokens."""
        return None

    def part(self, number: str) -> Front:
        """One of the fronts that it mixes. UsageError where there is none of this number."""
        raise UsageError(f"no part {number!r}: a mixture of prompts has parts, and this adapter is none")

    def keys(self) -> Keys:
        """Keys and values by the attention's path, which the row's cache begins with."""
        return {}

    def beside(self, network: nn.Module, adapters: str) -> Mapping[str, Apart]:
        """Keys and values by path that are attended apart, for rows that use these adapters."""
        return {}


def fronts(network: nn.Module) -> dict[str, Front]:
    """The fronts on a network, by the names of their adapters."""
    held = getattr(network, "adapters", None)
    return {} if held is None else {name: cast(Front, front) for name, front in held.items()}


def put_front(network: nn.Module, name: str, front: Front) -> None:
    """Put a front on this very network."""
    if not hasattr(network, "adapters"):
        network.adapters = nn.ModuleDict()
    held = cast(nn.ModuleDict, network.adapters)
    device = next(network.parameters()).device
    held[name] = front if next(front.parameters()).device == device else front.to(device)


def length(network: nn.Module, adapters: str | None | Sequence[str | None]) -> int:
    """The most places that these adapters take before a row."""
    held = fronts(network)
    if not held:
        return 0
    names = [adapters] if adapters is None or isinstance(adapters, str) else adapters
    return max((sum(front.tokens for front in _of(held, name)) for name in dict.fromkeys(names)), default=0)


def _of(held: Mapping[str, Front], name: str | None) -> list[Front]:
    """The fronts of the adapters in "a+b", a's first; in "a~2", part 2 of a's."""
    named = (each.partition(PART) for each in stacked(name))
    return [held[whole].part(part) if part else held[whole] for whole, _, part in named if whole in held]


def lay(
    network: nn.Module,
    rows: Sequence[Sequence[int]],
    cache: Cache,
    *,
    slots: Sequence[int] | None = None,
    adapters: str | None | Sequence[str | None] = None,
    memory: Memory | None = None,
    half: Literal["whole", "encoder", "decoder"] = "whole",
    device: torch.device | str = "cpu",
) -> tuple[Int[Tensor, " T"], Step, list[int]]:
    """The ids of all rows end to end, their `Step`, and where each row's own tokens begin in the ids.

    half: of an encoder-decoder, the encoder takes vectors and the decoder keys. Rows that hold keys already go on as
    they are: a front stands at a row's beginning alone.
    """
    held = fronts(network)
    if not held:
        ids = torch.tensor([i for row in rows for i in row], device=device)
        step = Step.of([len(r) for r in rows], cache, slots=slots, adapters=adapters, memory=memory, device=device)
        return ids, step, list(step.rows.starts[:-1])
    places = tuple(range(len(rows))) if slots is None else tuple(slots)
    names = [adapters] * len(rows) if adapters is None or isinstance(adapters, str) else list(adapters)
    begins = cache.begins(places)
    used = {name: _of(held, name) for name in dict.fromkeys(names)}
    if half != "encoder":
        for name, mine in used.items():
            at = [s for s, n, new in zip(places, names, begins, strict=True) if n == name and new]
            if at:
                for path, (k, v) in _keys(mine).items():
                    cache.start(path, at, k, v)
    flat: list[int] = []
    own: list[int] = []
    lengths: list[int] = []
    where: list[int] = []
    put: list[Tensor] = []
    for row, name, new in zip(rows, names, begins, strict=True):
        mine = used[name] if new and half != "decoder" else []
        vectors = [one for front in mine if (one := front.vectors()) is not None]
        before = sum(map(len, vectors))
        where += range(len(flat), len(flat) + before)
        put += vectors
        own.append(len(flat) + before)
        flat += [0] * before + list(row)
        lengths.append(before + len(row))
    step = Step.of(lengths, cache, slots=slots, adapters=adapters, memory=memory, device=device)
    if put:
        step = replace(step, spliced=Spliced(torch.tensor(where, device=device), torch.cat(put)))
    if half != "encoder":
        apart = _beside(network, names, used, step)
        if apart:
            step = replace(step, apart=apart)
    return torch.tensor(flat, device=device), step, own


def lay_alone(
    network: nn.Module,
    rows: Sequence[Sequence[int]],
    *,
    adapters: str | None = None,
    device: torch.device | str = "cpu",
) -> tuple[Int[Tensor, " T"], Step, list[int]]:
    """`lay` for a call that keeps nothing; two halves read the rows by the encoder first, and are laid out for the decoder."""
    if not isinstance(network, EncoderDecoder):
        return lay(network, rows, Fresh(), adapters=adapters, device=device)
    ids, step, _ = lay(network, rows, Fresh(), adapters=adapters, half="encoder", device=device)
    memory = network.encode(ids, step)
    return lay(network, rows, Fresh(), adapters=adapters, memory=memory, half="decoder", device=device)


def _keys(fronts: Sequence[Front]) -> Keys:
    """The keys and values of several fronts, the first one's first."""
    found: dict[str, tuple[Tensor, Tensor]] = {}
    for front in fronts:
        for path, (k, v) in front.keys().items():
            found[path] = (torch.cat([found[path][0], k]), torch.cat([found[path][1], v])) if path in found else (k, v)
    return found


def _beside(
    network: nn.Module,
    names: Sequence[str | None],
    used: Mapping[str | None, Sequence[Front]],
    step: Step,
) -> dict[str, tuple[Apart, ...]]:
    found: dict[str, tuple[Apart, ...]] = {}
    for name, mine in used.items():
        kept = [] if name is None else [pair for front in mine for pair in front.beside(network, name).items()]
        if not kept:
            continue
        rows = [i for i, n in enumerate(names) if n == name]
        at: Tensor | None = None
        if len(rows) < len(names):
            at = torch.cat([torch.arange(step.rows.starts[i], step.rows.starts[i + 1]) for i in rows])
            at = at.to(step.rows.device)
        for path, one in kept:
            found[path] = (*found.get(path, ()), replace(one, at=at))
    return found
