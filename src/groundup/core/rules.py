"""Reversible rules between the names and layouts of public files and our own.

One rule a line; the left side is the file's, the right side ours. What stands after `|` is done on the way in, and
undone in reverse on the way out:

    wte.weight                -> embed.tokens.weight
    h.{i}.attn.c_attn.weight  -> blocks.{i}.attn.{q,k,v}.weight   | transpose split
    lm_head.weight            -> head.weight                      | tie(embed.tokens.weight)
    h.{i}.attn.bias           -> ignore

`{i}` is a number, the same on both sides; `{q,k,v}` lists several names, which `split` or `interleave` make of one (or
`join` makes one of). Operations act on the output axis, dim 0 of [out, in]; `transpose` comes first where the
file keeps [in, out]. So the same table carries a LoRA's B [out, rank] across, by the same operations without `transpose`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from groundup.core.errors import UsageError

Tensors = list[Tensor]


@dataclass(frozen=True)
class Operation:
    """One reversible step on a list of tensors. `count` is how many tensors stand on our side."""

    name: str
    numbers: tuple[int, ...] = ()

    def forward(self, given: Tensors, count: int) -> Tensors:
        match self.name:
            case "transpose":
                return [t.mT for t in given]
            case "split":
                (t,) = given
                if not self.numbers and t.shape[0] % count:
                    raise UsageError(f"{t.shape[0]} rows cannot be split into {count} equal parts")
                return list(t.split(self.numbers or t.shape[0] // count))
            case "join":
                return [torch.cat(given)]
            case "interleave":
                (t,) = given
                heads = self.numbers[0]
                parts = t.unflatten(0, (heads, count, t.shape[0] // (heads * count)))  # [h, n, d, ...]
                return [parts[:, j].flatten(0, 1) for j in range(count)]
            case "rotary":
                heads = self.numbers[0]
                return [_swap(t, (heads, t.shape[0] // heads // 2, 2)) for t in given]
            case _:
                raise ValueError(f"unknown operation {self.name}")

    def inverse(self, given: Tensors, sizes: tuple[int, ...] = ()) -> Tensors:
        match self.name:
            case "transpose":
                return [t.mT for t in given]
            case "split":
                return [torch.cat(given)]
            case "join":
                (t,) = given
                return list(t.split(self.numbers))
            case "interleave":
                heads = self.numbers[0]
                parts = [t.unflatten(0, (heads, t.shape[0] // heads)) for t in given]
                return [torch.stack(parts, 1).flatten(0, 2)]
            case "rotary":
                heads = self.numbers[0]
                return [_swap(t, (heads, 2, t.shape[0] // heads // 2)) for t in given]
            case _:
                raise ValueError(f"unknown operation {self.name}")


def _swap(t: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Rows [h, a, b] -> [h, b, a]: pairs side by side <-> first halves, then second halves."""
    return t.unflatten(0, shape).transpose(1, 2).flatten(0, 2)


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
        """File -> ours."""
        for operation in self.operations:
            given = operation.forward(given, count)
        return given

    def inverse(self, given: Tensors) -> Tensors:
        """Ours -> file."""
        for operation in reversed(self.operations):
            given = operation.inverse(given)
        return given

    def without_layout(self) -> Rule:
        """The same rule for a matrix that is [out, ...] on both sides, such as a LoRA's B."""
        return Rule(self.source, self.target, tuple(o for o in self.operations if o.name != "transpose"))


@dataclass(frozen=True)
class Entry:
    """Which tensors of the file make which of ours, by which rule."""

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    rule: Rule


@dataclass
class Plan:
    """What a load or a save will do; `unused` must be empty, `ties` are targets that are another one's storage."""

    entries: list[Entry] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    ties: dict[str, str] = field(default_factory=dict)


_LIST = re.compile(r"\{([^{}]*,[^{}]*)\}")
_NUMBER = re.compile(r"\{(\w+)\}")


def _expand(pattern: str) -> list[str]:
    """`a.{q,k}.w` -> [`a.q.w`, `a.k.w`]."""
    found = _LIST.search(pattern)
    if not found:
        return [pattern]
    return [pattern[: found.start()] + word.strip() + pattern[found.end() :] for word in found[1].split(",")]


def _compile(pattern: str) -> re.Pattern[str]:
    out, last = "", 0
    seen: set[str] = set()
    for hit in _NUMBER.finditer(pattern):
        out += re.escape(pattern[last : hit.start()])
        out += f"(?P={hit[1]})" if hit[1] in seen else rf"(?P<{hit[1]}>0|[1-9]\d*)"
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
        plan, waiting = Plan(), {}
        for name in names:
            waiting[self._spelled(name)] = name
        for rule in self.table:
            sources, targets = _expand(rule.source), [] if rule.ignored else _expand(rule.target)
            patterns = [self._pattern(s) for s in sources]
            for spelled in list(waiting):
                hit = next((m for p in patterns[:1] if (m := p.fullmatch(spelled))), None)
                if hit is None:
                    continue
                numbers = hit.groupdict()
                group = [spelled]
                for other in sources[1:]:
                    wanted = next((w for w in waiting if (m := self._pattern(other).fullmatch(w)) and m.groupdict() == numbers), None)
                    if wanted is None:
                        break
                    group.append(wanted)
                if len(group) < len(sources):
                    continue  # half of a pair: stays unused, and is reported
                originals = tuple(waiting.pop(g) for g in group)
                if rule.ignored:
                    plan.ignored.extend(originals)
                else:
                    plan.entries.append(Entry(originals, tuple(_fill(t, numbers) for t in targets), rule))
        plan.unused.extend(waiting.values())
        filled = {t for e in plan.entries for t in e.targets}
        for rule in self.table:
            if rule.tied_to is not None and rule.target not in filled:
                plan.ties[rule.target] = rule.tied_to
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
                group = [_fill(t, hit.groupdict()) for t in targets]
                if any(g not in waiting for g in group):
                    continue
                for g in group:
                    del waiting[g]
                sources = [self._written(_fill(s, hit.groupdict())) for s in _expand(rule.source)]
                plan.entries.append(Entry(tuple(sources), tuple(group), rule))
        plan.unused.extend(waiting)
        return plan

    def module(self, path: str) -> Entry | None:
        """The rule of the weight of a public module (`transformer.h.0.attn.c_attn`), for adapters: names without `.weight`."""
        plan = self.load([f"{path}.weight"])
        if not plan.entries:
            return None
        (entry,) = plan.entries
        targets = tuple(t.removesuffix(".weight") for t in entry.targets)
        return Entry((path,), targets, entry.rule.without_layout())

    def modules(self, paths: Iterable[str]) -> Plan:
        """The way out of the same: our modules (`blocks.0.attn.q`) -> public modules; incomplete groups stay `unused`."""
        plan = self.save([f"{p}.weight" for p in paths])
        cut: Callable[[tuple[str, ...]], tuple[str, ...]] = lambda names: tuple(n.removesuffix(".weight") for n in names)  # noqa: E731
        entries = [Entry(cut(e.sources), cut(e.targets), e.rule.without_layout()) for e in plan.entries]
        return Plan(entries, unused=[n.removesuffix(".weight") for n in plan.unused])

    def under(self, source: str, target: str) -> tuple[Rule, ...]:
        """The table of a part, with both sides under a prefix (a tower of a larger model)."""
        return tuple(
            Rule(source + r.source, "ignore" if r.ignored else target + r.target, r.operations,
                 None if r.tied_to is None else target + r.tied_to)
            for r in self.table
        )

    def _spelled(self, name: str) -> str:
        head, _, last = name.rpartition(".")
        return f"{head}.{self.spellings[last]}" if last in self.spellings else name

    def _pattern(self, source: str) -> re.Pattern[str]:
        compiled = _compile(source.removeprefix("/"))
        if not self.prefix:
            return compiled
        return re.compile(f"(?:{re.escape(self.prefix)})?{compiled.pattern}")

    def _written(self, source: str) -> str:
        return source[1:] if source.startswith("/") else self.prefix + source


def rules(*lines: str | Rule, prefix: str = "", spellings: Mapping[str, str] | None = None) -> Rules:
    """A table from its lines (see the top of this file), or from the rules of another table."""
    return Rules(tuple(r if isinstance(r, Rule) else _parse(r) for r in lines), prefix, dict(spellings or {}))


def _parse(line: str) -> Rule:
    names, _, operations = line.partition("|")
    source, arrow, target = (part.strip() for part in names.partition("->"))
    if not arrow or not source or not target:
        raise ValueError(f"not a rule: {line!r}")
    steps, tied = [], None
    for word, inside in re.findall(r"(\w+)(?:\(([^)]*)\))?", operations):
        if word == "tie":
            tied = inside.strip()
        else:
            steps.append(Operation(word, tuple(int(n) for n in inside.split(",") if n.strip())))
    return Rule(source, target, tuple(steps), tied)
