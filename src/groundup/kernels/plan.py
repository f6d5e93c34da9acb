"""A decoder's step as a flat list of operations, which the library runs in one call for one token of each row.

A network is lowered once: every part emits its operations (`part.lower(plan, register) -> register`), reading and giving
registers of [rows, width] numbers. A part that cannot say itself in these operations leaves a hole, at which PyTorch runs it.

Several threads run a plan together. Each writes its own columns of a register (a norm, which reads all of them, is computed by
every thread for itself), and they wait for each other only where one reads what another has written, or would write over
what another may still be reading. Where that is, is found here.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from groundup.kernels.library import Library, Op
from groundup.kernels.packing import Layout

CODES = (
    "rms_norm",
    "layer_norm",
    "product",
    "dense",
    "low_rank",
    "stretch",
    "activate",
    "gate",
    "add",
    "cap",
    "attend",
)
ACTIVATIONS = ("relu", "gelu", "gelu_tanh", "quick_gelu", "silu", "tanh", "sigmoid")
FORMATS = (torch.float32, torch.bfloat16)
LINE = 16  # numbers in a line of the processor's cache


class Hole(Exception):
    """A part cannot be said in operations; the message says why."""


class Lowers(Protocol):
    """A part that says itself in operations."""

    def lower(self, plan: Plan, x: Register) -> Register: ...


@dataclass(frozen=True)
class Register:
    """[rows, width] numbers. `own`: every thread has them all for itself."""

    number: int
    width: int
    own: bool = False


@dataclass(frozen=True)
class Access:
    """Which part of a register a thread touches: all of it, its columns, or its heads."""

    register: Register
    how: str  # "whole", "columns", "heads"
    writes: bool = False


@dataclass
class Emitted:
    """One operation, or a hole (`part`) at which PyTorch runs."""

    fields: dict[str, Any]
    accesses: tuple[Access, ...]
    registers: dict[str, Register]
    part: Any = None


@dataclass
class Segment:
    """Operations in a row that one call runs; then the hole behind them, if there is one."""

    ops: Any
    count: int
    hole: Any = None
    given: Place | None = None
    made: Place | None = None


@dataclass(frozen=True)
class Place:
    """Where a register lies: `at` numbers a row behind the beginning of what threads share, or of a thread's own."""

    at: int
    width: int
    own: bool


@dataclass
class Plan:
    """What was emitted so far. `adapters`, `tables` and `paths` are numbered in the order in which they came."""

    emitted: list[Emitted] = field(default_factory=list)
    adapters: dict[str, int] = field(default_factory=dict)
    tables: dict[Any, int] = field(default_factory=dict)
    paths: dict[str, int] = field(default_factory=dict)
    kept: list[Tensor] = field(default_factory=list)  # tensors to whose memory operations point
    holes: list[str] = field(default_factory=list)
    count: int = 0

    # --- what parts say ---------------------------------------------------------------------------------------------

    def register(self, width: int, own: bool = False) -> Register:
        """A new one."""
        self.count += 1
        return Register(self.count - 1, width, own)

    def lower(self, part: Any, x: Register, width: int | None = None) -> Register:
        """What the part gives for x, by its own operations or through a hole. width: of that (default: that of x)."""
        mark = len(self.emitted)
        try:
            return _way(part)(self, x)
        except Hole as why:
            del self.emitted[mark:]
            self.holes.append(f"{type(part).__name__}: {why}")
            out = self.register(x.width if width is None else width)
            whole = (Access(x, "whole"), Access(out, "whole", True))
            self.emitted.append(Emitted({}, whole, {"input": x, "out": out}, part))
            return out

    def rms_norm(self, x: Register, gain: Tensor, eps: float) -> Register:
        return self._norm("rms_norm", x, gain, None, eps)

    def layer_norm(self, x: Register, gain: Tensor, bias: Tensor | None, eps: float) -> Register:
        return self._norm("layer_norm", x, gain, bias, eps)

    def product(self, x: Register, packed: Tensor, layout: Layout, outputs: int, bias: Tensor | None) -> Register:
        """x Wᵀ + bias of packed weights."""
        return self._linear("product", x, outputs, packed, layout.number, bias)

    def dense(self, x: Register, weight: Tensor, bias: Tensor | None) -> Register:
        """x Wᵀ + bias of an ordinary matrix [out, in]."""
        if weight.dtype not in FORMATS or not weight.is_contiguous() or weight.device.type != "cpu":
            raise Hole(f"a matrix in {weight.dtype} on {weight.device}")
        return self._linear("dense", x, weight.shape[0], weight, FORMATS.index(weight.dtype), bias)

    def low_rank(self, y: Register, x: Register, a: Tensor, b: Tensor, scale: float, adapter: str) -> Register:
        """y + scale · (x Aᵀ) Bᵀ in rows that use the adapter, into y itself."""
        who = self.adapters.setdefault(adapter, len(self.adapters))
        numbers = {"who": who, "pairs": len(a), "scale": scale, "p": self._numbers(a), "q": self._numbers(b)}
        accesses = Access(x, "whole"), Access(y, "columns"), Access(y, "columns", True)
        return self._emit("low_rank", accesses, {"input": x, "out": y}, **numbers)

    def stretch(self, x: Register, factors: Tensor, adapter: str) -> Register:
        """x · factors in rows that use the adapter, x in the others."""
        who = self.adapters.setdefault(adapter, len(self.adapters))
        return self._columns("stretch", x, who=who, p=self._numbers(factors))

    def activate(self, x: Register, function: str) -> Register:
        return self._columns("activate", x, kind=ACTIVATIONS.index(function))

    def gate(self, x: Register, y: Register, function: str) -> Register:
        """function(x) · y."""
        return self._columns("gate", x, y, kind=ACTIVATIONS.index(function))

    def add(self, x: Register, y: Register) -> Register:
        return self._columns("add", x, y)

    def cap(self, x: Register, cap: float) -> Register:
        """cap · tanh(x / cap)."""
        return self._columns("cap", x, cap=cap)

    def attend(
        self, q: Register, k: Register, v: Register, path: str, *, heads: int, kv_heads: int, head_dim: int, scale: float,
        window: int | None = None, cap: float | None = None, clip: float | None = None, rotary: Any = None, eps: float = 0.0,
        q_gain: Tensor | None = None, k_gain: Tensor | None = None, slopes: Sequence[float] | None = None,
    ) -> Register:  # fmt: skip
        """Attention of the new tokens to what the cache keeps under `path` and to themselves; keeps their keys there.

        rotary  turns queries and keys: has `table(positions, dtype)`
        q_gain, k_gain  of root-mean-square norms over each head, with `eps`
        slopes  of each head, times the distance, are taken off the scores
        """
        out = self.register(heads * head_dim)
        table = -1 if rotary is None else self.tables.setdefault(rotary, len(self.tables))
        cache = self.paths.setdefault(path, len(self.paths))
        accesses = *(Access(r, "whole") for r in (q, k, v)), Access(out, "heads", True)
        return self._emit(
            "attend", accesses, {"input": q, "other": k, "third": v, "out": out}, who=cache, heads=heads, kv_heads=kv_heads,
            head_dim=head_dim, scale=scale, window=window or 0, cap=cap or 0.0, clip=clip or 0.0, table=table, eps=eps,
            pairs=0 if rotary is None else len(rotary.frequencies), p=self._numbers(q_gain), q=self._numbers(k_gain),
            r=self._numbers(None if slopes is None else torch.tensor(slopes)),
        )  # fmt: skip

    def _norm(self, code: str, x: Register, gain: Tensor, bias: Tensor | None, eps: float) -> Register:
        out = self.register(x.width, own=True)
        accesses = Access(x, "whole"), Access(out, "whole", True)
        return self._emit(
            code, accesses, {"input": x, "out": out}, eps=eps, p=self._numbers(gain), q=self._numbers(bias)
        )

    def _linear(self, code: str, x: Register, outputs: int, weight: Tensor, kind: int, bias: Tensor | None) -> Register:
        out = self.register(outputs)
        self.kept.append(weight)
        accesses = Access(x, "whole"), Access(out, "columns", True)
        registers = {"input": x, "out": out}
        return self._emit(code, accesses, registers, kind=kind, p=weight.data_ptr(), q=self._numbers(bias))

    def _columns(self, code: str, x: Register, y: Register | None = None, **numbers: Any) -> Register:
        out = self.register(x.width)
        given = [Access(r, "columns") for r in (x, y) if r is not None]
        registers = {"input": x, "other": x if y is None else y, "out": out}
        return self._emit(code, (*given, Access(out, "columns", True)), registers, **numbers)

    def _emit(self, code: str, accesses: Sequence[Access], registers: dict[str, Register], **numbers: Any) -> Register:
        fields = {"table": -1, **numbers, "code": CODES.index(code)}
        fields |= {"inputs": registers["input"].width, "width": registers["out"].width}
        self.emitted.append(Emitted(fields, tuple(accesses), registers))
        return registers["out"]

    def _numbers(self, tensor: Tensor | None) -> int | None:
        """The address of these numbers in float32."""
        if tensor is None:
            return None
        self.kept.append(tensor.detach().to("cpu", torch.float32).contiguous())
        return self.kept[-1].data_ptr()


def _way(part: Any) -> Any:
    """The part's `lower`; Hole where it has none, or where its `forward` is a later one that `lower` knows nothing of."""
    for kind in type(part).__mro__:
        if "lower" in vars(kind):
            return part.lower
        if "forward" in vars(kind):
            break
    raise Hole("it does not say itself in operations")


# --- where registers lie, and where threads wait ----------------------------------------------------------------------


@dataclass
class Laid:
    """A finished plan. shared, own: numbers a row that registers take."""

    segments: list[Segment]
    first: Place
    last: Place
    shared: int
    own: int


class _Room:
    """Gives registers their places, and remembers who touched these since the threads last waited."""

    def __init__(self) -> None:
        self.places: dict[int, Place] = {}
        self.free: list[Place] = []
        self.size = {False: 0, True: 0}
        self.touched: dict[Place, list[tuple[str, bool]]] = {}

    def give(self, register: Register, how: str) -> Place:
        if register.number in self.places:
            return self.places[register.number]
        fits = (p for p in self.free if (p.width, p.own) == (register.width, register.own))
        place = next((p for p in fits if not self.conflict(p, how, True)), None)
        if place is None:
            place = Place(self.size[register.own], register.width, register.own)
            self.size[register.own] += -(-register.width // LINE) * LINE
        else:
            self.free.remove(place)
        self.places[register.number] = place
        return place

    def conflict(self, place: Place, how: str, writes: bool) -> bool:
        """Whether another thread may touch what this access touches."""
        if place.own:
            return False
        before = self.touched.get(place, [])
        return any((writes or wrote) and (how != kind or how == "whole") for kind, wrote in before)


def lay(plan: Plan, first: Register, last: Register) -> Laid:
    """Give every register its place, find where threads wait, and cut the plan at its holes."""
    uses: dict[int, int] = {last.number: len(plan.emitted)}
    for i, each in enumerate(plan.emitted):
        for access in each.accesses:
            uses[access.register.number] = max(i, uses.get(access.register.number, 0))
    room, segments, ops = _Room(), list[Segment](), list[Op]()
    room.give(first, "whole")
    for i, each in enumerate(plan.emitted):
        accesses = [(room.give(a.register, a.how), a.how, a.writes) for a in each.accesses]
        places = {role: room.places[register.number] for role, register in each.registers.items()}
        if each.part is not None:
            segments.append(_segment(ops, each.part, places["input"], places["out"]))
            ops = []
            room.touched.clear()  # a call ends with all threads done
        else:
            waits = any(room.conflict(*access) for access in accesses)
            if waits:
                room.touched.clear()
            for place, how, writes in accesses:
                room.touched.setdefault(place, []).append((how, writes))
            where = {role: ~p.at if p.own else p.at for role, p in places.items()}
            ops.append(Op(**each.fields, **where, barrier=int(waits)))
        for register in {a.register for a in each.accesses}:
            if uses[register.number] == i:
                room.free.append(room.places[register.number])
    segments.append(_segment(ops))
    return Laid(segments, room.places[first.number], room.places[last.number], room.size[False], room.size[True])


def _segment(ops: list[Op], hole: Any = None, given: Place | None = None, made: Place | None = None) -> Segment:
    return Segment((Op * len(ops))(*ops), len(ops), hole, given, made)


def run(library: Library, segment: Segment, call: Any) -> None:
    """Run the operations of a segment. MemoryError where there is no room for what is between them."""
    if segment.count and library.functions.groundup_step(
        library.path, ctypes.addressof(segment.ops), segment.count, ctypes.addressof(call)
    ):
        raise MemoryError("no memory for a step")
