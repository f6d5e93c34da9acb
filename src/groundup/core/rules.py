"""Reversible rules between the names and layouts of public files and our own.

One rule a line; the left side is the file's, the right side ours. What stands after `|` is done on the way in, and
undone in reverse on the way out:

    wte.weight                -> embed.tokens.weight
    h.{i}.attn.c_attn.weight  -> blocks.{i}.attn.{q,k,v}.weight   | transpose split
    /lm_head.weight           -> head.weight                      | tie(embed.tokens.weight)
    h.{i}.attn.bias           -> ignore

`{i}` is a number, the same on both sides; `{q,k,v}` lists several names, which `split` or `interleave` make of one, or
which `join` makes one of. A target may stand in several lines (a file may spell it in several ways): the first line is
what is written. The operations, on dim 0, the output axis of [out, in]:

    transpose         [in, out] -> [out, in]                        comes first, where the file keeps [in, out]
    split             [n·d, ...] -> n of [d, ...]                   split(a,b,c): parts of these sizes
    join              n of [d, ...] -> [n·d, ...]                   join(a,b,c): likewise
    interleave(h)     [h·n·d, ...] -> n of [h·d, ...]               each head keeps its q, k and v together
    rotary(h)         [h·d, ...] -> [h·d, ...]                      x0 y0 x1 y1 ... -> x0 x1 ... y0 y1 ... in each head
    tie(name)         our tensor may be the very storage of `name`; a file may leave it out

Since they act on the output axis, the same line carries a LoRA's B [out, rank] across, without `transpose`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import torch
from torch import Tensor

from groundup.core.errors import UsageError

Tensors = list[Tensor]


@dataclass(frozen=True)
class Operation:
    """One reversible step on a list of tensors."""

    name: str
    numbers: tuple[int, ...] = ()

    def forward(self, given: Tensors, count: int) -> Tensors:
        """File -> ours, which has `count` tensors."""
        match self.name:
            case "transpose":
                return [_transposed(t) for t in given]
            case "split":
                return _cut(given[0], self.numbers, count)
            case "join":
                return [torch.cat(given)]
            case "interleave":
                (heads,) = self.numbers
                laid = _folded(given[0], heads, count, -1)  # [h, n, d, ...]
                return [laid[:, j].flatten(0, 1) for j in range(count)]
            case "rotary":
                return [_folded(t, self.numbers[0], -1, 2).transpose(1, 2).flatten(0, 2) for t in given]
            case _:
                raise ValueError(f"unknown operation {self.name!r}")

    def inverse(self, given: Tensors, count: int) -> Tensors:
        """Ours -> the file, which has `count` tensors."""
        match self.name:
            case "transpose":
                return [_transposed(t) for t in given]
            case "split":
                return [torch.cat(given)]
            case "join":
                return _cut(given[0], self.numbers, count)
            case "interleave":
                (heads,) = self.numbers
                return [torch.stack([_folded(t, heads, -1) for t in given], 1).flatten(0, 2)]
            case "rotary":
                return [_folded(t, self.numbers[0], 2, -1).transpose(1, 2).flatten(0, 2) for t in given]
            case _:
                raise ValueError(f"unknown operation {self.name!r}")


def _transposed(t: Tensor) -> Tensor:
    if t.ndim != 2:
        raise UsageError(f"a matrix was expected, not shape {list(t.shape)}")
    return t.T


def _cut(t: Tensor, sizes: Sequence[int], count: int) -> Tensors:
    if sizes and (t.ndim == 0 or sum(sizes) != t.shape[0]):
        raise UsageError(f"shape {list(t.shape)} cannot be cut into parts of {', '.join(map(str, sizes))} rows")
    return list(t.split(list(sizes))) if sizes else list(_folded(t, count, -1))


def _folded(t: Tensor, *sizes: int) -> Tensor:
    """Dim 0 as several; one size is -1."""
    rest = -math.prod(sizes)
    if t.ndim == 0 or t.shape[0] % rest:
        raise UsageError(f"shape {list(t.shape)} cannot be laid out in groups of {rest} rows")
    return t.unflatten(0, [t.shape[0] // rest if s == -1 else s for s in sizes])


@dataclass(frozen=True)
class Rule:
    """One line of a table."""

    source: str
    target: str
    operations: tuple[Operation, ...] = ()
    tied_to: str | None = None

    @property
    def ignored(self) -> bool:
        return self.target == "ignore"

    def forward(self, given: Tensors, count: int = 1) -> Tensors:
        """File -> ours, which has `count` tensors."""
        for operation in self.operations:
            given = operation.forward(given, count)
        return given

    def inverse(self, given: Tensors, count: int = 1) -> Tensors:
        """Ours -> the file, which has `count` tensors."""
        for operation in reversed(self.operations):
            given = operation.inverse(given, count)
        return given

    def without_layout(self) -> Rule:
        """The same rule for a matrix that is [out, ...] on both sides, such as a LoRA's B."""
        return replace(self, operations=tuple(o for o in self.operations if o.name != "transpose"), tied_to=None)


@dataclass(frozen=True)
class Entry:
    """Which tensors of the file make which of ours, by which rule."""

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    rule: Rule

    def forward(self, given: Tensors) -> Tensors:
        """The file's tensors -> ours. UsageError, with the names, for a shape that the rule cannot take apart."""
        try:
            return self.rule.forward(given, len(self.targets))
        except UsageError as e:
            raise UsageError(f"{', '.join(self.sources)}: {e}") from None

    def inverse(self, given: Tensors) -> Tensors:
        """Our tensors -> the file's."""
        try:
            return self.rule.inverse(given, len(self.sources))
        except UsageError as e:
            raise UsageError(f"{', '.join(self.targets)}: {e}") from None


@dataclass
class Plan:
    """What a load or a save will do.

    ignored   names of the file that carry nothing
    unused    names that no rule knows; must be empty
    copies    a second source of something that an entry makes already: its numbers must be equal
    ties      ours -> ours: what the file leaves out since it may be another tensor's storage
    """

    entries: list[Entry] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    copies: list[Entry] = field(default_factory=list)
    ties: dict[str, str] = field(default_factory=dict)

    @property
    def filled(self) -> set[str]:
        """Every target that an entry makes."""
        return {t for e in self.entries for t in e.targets}


_LIST = re.compile(r"\{([^{}]*,[^{}]*)\}")
_NUMBER = re.compile(r"\{(\w+)\}")


@lru_cache(maxsize=4096)
def _expand(pattern: str) -> tuple[str, ...]:
    """`a.{q,k}.w` -> (`a.q.w`, `a.k.w`)."""
    found = _LIST.search(pattern)
    if not found:
        return (pattern,)
    return tuple(pattern[: found.start()] + word.strip() + pattern[found.end() :] for word in found[1].split(","))


@lru_cache(maxsize=4096)
def _compile(pattern: str, prefix: str = "") -> re.Pattern[str]:
    out, last = f"(?:{re.escape(prefix)})?" if prefix else "", 0
    seen: set[str] = set()
    for hit in _NUMBER.finditer(pattern):
        out += re.escape(pattern[last : hit.start()])
        out += f"(?P={hit[1]})" if hit[1] in seen else rf"(?P<{hit[1]}>0|[1-9][0-9]*)"
        seen.add(hit[1])
        last = hit.end()
    return re.compile(out + re.escape(pattern[last:]))


def _fill(pattern: str, numbers: Mapping[str, str]) -> str:
    return _NUMBER.sub(lambda hit: numbers[hit[1]], pattern)


@dataclass(frozen=True)
class Rules:
    """A table of rules for one public layout of one family.

    prefix     written before every source on the way out (but those that begin with `/`), optional on the way in
    spellings  old last words of a name -> today's (`gamma` -> `weight`)
    """

    table: tuple[Rule, ...]
    prefix: str = ""
    spellings: Mapping[str, str] = field(default_factory=dict)

    def load(self, names: Iterable[str]) -> Plan:
        """Which of the file's tensors become which of ours; nothing is read yet."""
        plan, filled = Plan(), set[str]()
        waiting = {name: self._spelled(name) for name in names}
        for rule in self.table:
            first = self._pattern(_expand(rule.source)[0])
            for name, spelled in list(waiting.items()):
                hit = first.fullmatch(spelled)
                if hit is None or name not in waiting:
                    continue
                group = (name, *self._companions(rule, hit, waiting))
                if len(group) < len(_expand(rule.source)):
                    continue  # part of a group: stays unused, and is reported
                for member in group:
                    del waiting[member]
                if rule.ignored:
                    plan.ignored.extend(group)
                    continue
                entry = Entry(group, tuple(_fill(t, hit.groupdict()) for t in _expand(rule.target)), rule)
                (plan.copies if filled.intersection(entry.targets) else plan.entries).append(entry)
                filled.update(entry.targets)
        plan.unused.extend(waiting)
        plan.ties = {r.target: r.tied_to for r in self.table if r.tied_to is not None and r.target not in filled}
        return plan

    def save(self, names: Iterable[str]) -> Plan:
        """Which of our tensors become which of the file's. A tied target must be left out of `names` by the caller."""
        plan, waiting = Plan(), dict.fromkeys(names)
        for rule in self.table:
            if rule.ignored:
                continue
            targets = _expand(rule.target)
            first = _compile(targets[0])
            for name in list(waiting):
                hit = first.fullmatch(name)
                if hit is None or name not in waiting:
                    continue
                group = tuple(_fill(t, hit.groupdict()) for t in targets)
                if any(member not in waiting for member in group):
                    continue  # part of a group cannot be written
                for member in group:
                    del waiting[member]
                sources = tuple(self._written(_fill(s, hit.groupdict())) for s in _expand(rule.source))
                plan.entries.append(Entry(sources, group, rule))
        plan.unused.extend(waiting)
        return plan

    def module(self, path: str) -> Entry | None:
        """The rule of a public module's weight, `transformer.h.0.attn.c_attn` -> `blocks.0.attn.{q,k,v}`, for adapters.

        Its `forward` takes the rows of a LoRA's B [out, rank] across; None if no module of ours is meant.
        """
        # a weight may stand in its module under a longer name, as `in_proj_weight` of PyTorch's attention
        plan = self.load([path if path.endswith("_weight") else f"{path}.weight"])
        return _of_modules(plan.entries[0]) if plan.entries else None

    def modules(self, paths: Iterable[str]) -> Plan:
        """The way out of the same: our modules (`blocks.0.attn.q`) -> public ones; part of a group is `unused`."""
        plan = self.save([f"{p}.weight" for p in paths])
        return Plan([_of_modules(e) for e in plan.entries], unused=[n.removesuffix(".weight") for n in plan.unused])

    def under(self, source: str, target: str) -> tuple[Rule, ...]:
        """The table of a part, for the table of the whole: both sides under a prefix (a tower of a larger model)."""
        return tuple(
            replace(
                r,
                source=source + self._written(r.source),
                target=r.target if r.ignored else target + r.target,
                tied_to=None if r.tied_to is None else target + r.tied_to,
            )
            for r in self.table
        )

    def _spelled(self, name: str) -> str:
        head, dot, last = name.rpartition(".")
        return head + dot + self.spellings.get(last, last)

    def _pattern(self, source: str) -> re.Pattern[str]:
        outside = source.startswith("/")
        return _compile(source.removeprefix("/"), "" if outside else self.prefix)

    def _companions(self, rule: Rule, first: re.Match[str], waiting: Mapping[str, str]) -> Iterable[str]:
        """The other sources of a `join`, with the same numbers."""
        for source in _expand(rule.source)[1:]:
            pattern = self._pattern(source)
            for name, spelled in waiting.items():
                hit = pattern.fullmatch(spelled)
                if hit is not None and hit.groupdict() == first.groupdict():
                    yield name
                    break

    def _written(self, source: str) -> str:
        return source[1:] if source.startswith("/") else self.prefix + source


def _of_modules(entry: Entry) -> Entry:
    cut: Callable[[tuple[str, ...]], tuple[str, ...]] = lambda names: tuple(n.removesuffix(".weight") for n in names)
    return Entry(cut(entry.sources), cut(entry.targets), entry.rule.without_layout())


def rules(*lines: str | Rule, prefix: str = "", spellings: Mapping[str, str] | None = None) -> Rules:
    """A table from its lines (see the top of this file), or from the rules of another table.

    Raises ValueError for a line that says nothing definite.
    """
    return Rules(tuple(r if isinstance(r, Rule) else _parse(r) for r in lines), prefix, dict(spellings or {}))


_OPERATION = re.compile(r"(\w+)(?:\(([^()]*)\))?\s*")


def _parse(line: str) -> Rule:
    names, _, operations = line.partition("|")
    source, arrow, target = (part.strip() for part in names.partition("->"))
    steps, tied = [], None
    rest = operations.strip()
    while rest:
        hit = _OPERATION.match(rest)
        if hit is None:
            raise ValueError(f"not an operation: {rest!r} in {line!r}")
        word, inside, rest = hit[1], hit[2] or "", rest[hit.end() :]
        if word == "tie":
            tied = inside.strip()
        else:
            steps.append(Operation(word, tuple(int(n) for n in inside.split(",") if n.strip())))
    rule = Rule(source, target, tuple(steps), tied)
    if not arrow or not source or not target or _fault(rule):
        raise ValueError(f"not a rule: {line!r}{' : ' if _fault(rule) else ''}{_fault(rule)}")
    return rule


def _fault(rule: Rule) -> str:
    many, several = len(_expand(rule.source)), len(_expand(rule.target))
    words = [o.name for o in rule.operations]
    numbers = {o.name: len(o.numbers) for o in rule.operations}
    if unknown := set(words) - {"transpose", "split", "join", "interleave", "rotary"}:
        return f"unknown operation {unknown.pop()!r}"
    if any(numbers.get(o, 1) != 1 for o in ("interleave", "rotary")):
        return "needs the number of heads"
    if (several > 1) != ("split" in words or "interleave" in words):
        return "a list on the right, and split or interleave, go together"
    if (many > 1) != ("join" in words):
        return "a list on the left, and join, go together"
    if many > 1 and several > 1:
        return "a list on both sides"
    if not rule.ignored and set(_NUMBER.findall(rule.source)) != set(_NUMBER.findall(rule.target)):
        return "the two sides count different things"
    return ""
