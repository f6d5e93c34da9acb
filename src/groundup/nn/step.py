"""`Rows` and `Step`: what every part is told about this one call.

Where is the batch? There is none. The tokens of all rows lie end to end, without padding; three prompts of 5, 11 and
1 tokens are one tensor `x` of 17 rows:

    x       [T=17, D]   a a a a a b b b b b b b b b b b c
    starts  0 5 16 17   |         |                     | |
    row     [T]         0 0 0 0 0 1 1 1 1 1 1 1 1 1 1 1 2
    offset  [T]         0 1 2 3 4 0 1 2 3 4 5 6 7 8 9 . 0

Linears, norms and MLPs treat tokens one by one and never look at this. Only what mixes tokens lays the rows side by
side, and only inside itself:  `rows.pad(x)` -> [B=3, L=11, D],  `rows.unpad(...)` -> [T, D].  When all rows are of one
length that is a plain view.

Who computes the positions? `Step.of`, once, before the first block: a token's position is its offset in the row
plus what the cache holds of that row already (`past`).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

STACK = "+"  # between the names of adapters that a row uses one over the other


def stacked(name: str | None) -> list[str]:
    """The names in "a+b", the lowest first; none in None."""
    return [] if name is None else name.split(STACK)


@runtime_checkable
class Keys(Protocol):
    """The keys and values that the tokens of one call may look at."""

    def attend(
        self,
        q: Float[Tensor, "T H Dh"],
        step: Step,
        *,
        causal: bool,
        scale: float,
        bias: Any = None,
        window: int | None = None,
        cap: float | None = None,
        path: str = "",
    ) -> Float[Tensor, "T H Dv"]:
        """What each query takes from them (see `groundup.nn.attention.attend`); `path` names who asks (`Taps`)."""
        ...

    def over(self, run: Callable[[Tensor, tuple[int, ...]], Tensor], step: Step) -> Float[Tensor, "T ..."]:
        """What `run` makes of k, for cores that are no attention: it is given all that the rows hold, side by side
        [B, S, ...], and how many of these each row held before this call, and gives [B, L, ...] for the call's own."""
        ...


Recurrence = Callable[[Sequence[Tensor], "tuple[int, ...] | None", "Tensor | None"], tuple[Tensor, Tensor]]
"""What a recurrent core does with rows side by side [B, L, ...], their lengths (None: all L) and the state [B, ...] that
each row brings (None: they begin): what it gives for each token [B, L, ...], and the state that each row leaves."""


@runtime_checkable
class Cache(Protocol):
    """What attention remembers between calls; `groundup.nn.cache` holds the kinds.

    Writing goes where the `Step` says, so that repeating a call changes nothing. The caller advances the lengths once a
    call, after the network returned.
    """

    def lengths(self, slots: Sequence[int]) -> tuple[int, ...]:
        """Keys held for each of these rows."""
        ...

    def begins(self, slots: Sequence[int]) -> tuple[bool, ...]:
        """Whether each of these rows begins with this call, so that what stands before a row belongs into it."""
        ...

    def start(
        self, path: str, slots: Sequence[int], k: Float[Tensor, "P Hkv Dh"], v: Float[Tensor, "P Hkv Dv"]
    ) -> None:
        """Put keys and values at the beginning of rows that hold none yet (prefix tuning; positions count on)."""
        ...

    def positions(self, rows: Rows, past: Sequence[int]) -> Int[Tensor, " T"]:
        """The position of each token of a call."""
        ...

    def write(self, path: str, k: Float[Tensor, "T Hkv Dh"], v: Float[Tensor, "T Hkv Dv"], step: Step) -> Keys:
        """Keep k and v of this call, and give all that its tokens may look at."""
        ...

    def recur(
        self, path: str, run: Recurrence, given: Sequence[Shaped[Tensor, "T ..."]], step: Step
    ) -> Float[Tensor, "T ..."]:
        """What a recurrent core gives for the tokens of this call, from the states that their rows are in."""
        ...

    def fill(self, path: str, k: Float[Tensor, "S Hkv Dh"], v: Float[Tensor, "S Hkv Dv"], step: Step) -> Keys:
        """Keep the keys of `step.memory` for the rows that join, and give them."""
        ...

    def read(self, path: str, step: Step) -> Keys:
        """The memory's keys of rows that joined earlier."""
        ...


@dataclass(frozen=True)
class Rows:
    """Where each row begins: `starts` has B + 1 entries, the last one is T. A row may be empty."""

    starts: tuple[int, ...]
    device: torch.device = field(default=torch.device("cpu"))

    @staticmethod
    def of(lengths: Sequence[int], device: torch.device | str = "cpu") -> Rows:
        """Rows of these lengths, end to end."""
        starts = [0]
        for length in lengths:
            starts.append(starts[-1] + length)
        return Rows(tuple(starts), torch.device(device))

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def total(self) -> int:
        """T, the number of tokens."""
        return self.starts[-1]

    @cached_property
    def lengths(self) -> tuple[int, ...]:
        return tuple(b - a for a, b in zip(self.starts, self.starts[1:], strict=False))

    @cached_property
    def longest(self) -> int:
        return max(self.lengths, default=0)

    @cached_property
    def even(self) -> bool:
        """All rows are of one length, so that laying them side by side is a view."""
        return min(self.lengths, default=0) == self.longest

    @cached_property
    def row(self) -> Int[Tensor, " T"]:
        """The row of each token."""
        index = torch.arange(len(self), device=self.device)
        return index.repeat_interleave(torch.tensor(self.lengths, device=self.device), output_size=self.total)

    @cached_property
    def offset(self) -> Int[Tensor, " T"]:
        """The place of each token in its row."""
        first = torch.tensor(self.starts[:-1], device=self.device)
        return torch.arange(self.total, device=self.device) - first[self.row]

    @cached_property
    def real(self) -> Shaped[Tensor, "B L"]:
        """True where the square of `pad` holds a token."""
        lengths = torch.tensor(self.lengths, device=self.device)
        return torch.arange(self.longest, device=self.device) < lengths[:, None]

    @cached_property
    def place(self) -> Int[Tensor, " T"]:
        """Where each token stands in the flattened square [B * L]."""
        return self.row * self.longest + self.offset

    def pad(self, x: Shaped[Tensor, "T ..."]) -> Shaped[Tensor, "B L ..."]:
        """The rows side by side, zeros behind the short ones."""
        shape = (len(self), self.longest, *x.shape[1:])
        if self.even:
            return x.view(shape)
        return x.new_zeros((shape[0] * shape[1], *x.shape[1:])).index_copy(0, self.place, x).view(shape)

    def unpad(self, x: Shaped[Tensor, "B L ..."]) -> Shaped[Tensor, "T ..."]:
        """The inverse of `pad`."""
        flat = x.reshape(-1, *x.shape[2:])
        return flat if self.even else flat.index_select(0, self.place)


@dataclass(frozen=True)
class Memory:
    """What an encoder made, for the call in which its rows join: x [S, D] and the encoder's own `Step`."""

    x: Float[Tensor, "S D"]
    step: Step


@dataclass(frozen=True)
class Spliced:
    """Vectors x [N, D] that stand in for the token embeddings at the places `at` [N] of the call."""

    at: Int[Tensor, " N"]
    x: Float[Tensor, "N D"]


@dataclass(frozen=True)
class Apart:
    """Keys and values [P, Hkv, Dh] with a softmax of their own, whose result joins through a gate [H].

    at [N]: the tokens that see them; None: all.
    """

    k: Float[Tensor, "P Hkv Dh"]
    v: Float[Tensor, "P Hkv Dh"]
    gate: Float[Tensor, " H"]
    at: Int[Tensor, " N"] | None = None


@dataclass(frozen=True)
class Taps:
    """What a call leaves for whoever looks inside it; a part leaves what the record has room for, and nothing else.

    weights  by the attention's path: how much each query takes of each key [B, H, L, S]; None: not asked for
    states   by path: hidden states [T, D], `embed`, `blocks.0` ... and `norm`; None: not asked for
    routes   by the mixture's path: what its router scored for each expert [T, E]; None: not asked for

    Keys that stand apart (LLaMA-Adapter) and rows that others share have maps of their own, `<path>:apart.0` and
    `<path>:shared`. With `weights`, attention goes through the plain `attend`.
    """

    weights: dict[str, Float[Tensor, "B H L S"]] | None = None
    states: dict[str, Float[Tensor, "T D"]] | None = None
    routes: dict[str, Float[Tensor, "T E"]] | None = None


@dataclass(frozen=True)
class Step:
    """The facts of one call, the same for every part; nothing of it is left behind in a module.

    rows       where each row begins
    positions  [T] the position of each token in its row, counted from the row's own first token
    cache      what earlier calls left; for a call that stands alone, one that holds nothing
    slots      [B] the cache's row of each row
    past       [B] keys held there before this call
    adapters   the adapter that each row uses: one name (or None) for all, or one a row; "a+b" is b over a
    memory     the encoder's output, only in the call in which its rows join
    spliced    vectors that stand in for the token embeddings at some places (soft prompts, projected images)
    types      [T] the token type of each token (BERT); None: all 0
    apart      keys and values by path that attention sees beside its own (LLaMA-Adapter)
    taps       where parts leave what somebody wants to see; None: nowhere
    facts      masks and tables, computed once a call by whoever needs them first
    """

    rows: Rows
    positions: Int[Tensor, " T"]
    cache: Cache
    slots: tuple[int, ...]
    past: tuple[int, ...]
    adapters: str | None | tuple[str | None, ...] = None
    memory: Memory | None = None
    spliced: Spliced | None = None
    types: Int[Tensor, " T"] | None = None
    apart: Mapping[str, tuple[Apart, ...]] = field(default_factory=dict)
    facts: dict[Hashable, Any] = field(default_factory=dict)
    taps: Taps | None = None

    @staticmethod
    def of(
        lengths: Sequence[int],
        cache: Cache,
        *,
        slots: Sequence[int] | None = None,
        adapters: str | None | Sequence[str | None] = None,
        memory: Memory | None = None,
        spliced: Spliced | None = None,
        types: Int[Tensor, " T"] | None = None,
        apart: Mapping[str, tuple[Apart, ...]] | None = None,
        taps: Taps | None = None,
        device: torch.device | str = "cpu",
    ) -> Step:
        """A call on rows of `lengths` tokens.

        slots: the cache's row of each (default 0, 1, 2 ...). adapters: one name for all rows, or one a row.
        """
        rows = Rows.of(lengths, device)
        places = tuple(range(len(rows))) if slots is None else tuple(slots)
        past = cache.lengths(places)
        if adapters is not None and not isinstance(adapters, str):
            adapters = adapters[0] if len(set(adapters)) == 1 else tuple(adapters)
        positions = cache.positions(rows, past)
        return Step(rows, positions, cache, places, past, adapters, memory, spliced, types, apart or {}, taps=taps)

    def fact(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What `make` gives, made once a call. Not for tensors that need gradients: recomputation would see them."""
        found = self.facts.get(key)
        if found is None:
            found = self.facts[key] = make()
        return found

    def take(self, index: Int[Tensor, " N"]) -> Step:
        """The same call narrowed to the tokens `index`, for parts that treat tokens one by one (a head).

        Rows keep their number and their adapters; some may become empty.
        """
        counts = torch.bincount(self.rows.row[index], minlength=len(self.rows)).tolist()
        rows = Rows.of(counts, self.rows.device)
        types = None if self.types is None else self.types[index]
        return replace(self, rows=rows, positions=self.positions[index], types=types, spliced=None, facts={})

    def by_adapter(self) -> Mapping[str, Int[Tensor, " N"]]:
        """For a call of mixed adapters: the tokens that use each one (tokens with none are in no group)."""

        def group() -> dict[str, Tensor]:
            names = self.adapters if isinstance(self.adapters, tuple) else (self.adapters,) * len(self.rows)
            found: dict[str, list[Tensor]] = {}
            for name, a, b in zip(names, self.rows.starts, self.rows.starts[1:], strict=False):
                if name is not None and b > a:
                    found.setdefault(name, []).append(torch.arange(a, b, device=self.rows.device))
            return {name: torch.cat(parts) for name, parts in found.items()}

        return self.fact("by_adapter", group)
