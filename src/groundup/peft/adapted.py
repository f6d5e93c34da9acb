"""A linear (a norm, an embedding) with what adapters add to it, by their names; the `Step` says which each row uses.

    x ── before ── base ── after ── y       a method that changes a linear is one `Part`: what it does to the linear's
                                            input, and what to its output

Adapters stack: with "a+b" in use, b is put over a, as if a were part of the linear,

    x ── before b ── before a ── base ── after a ── after b ── y

Wrapping and unwrapping are surgery on a copy that shares every weight (`surgery.shared`).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, cast

from jaxtyping import Float, Shaped
from torch import Tensor, nn

from groundup.core.errors import UsageError
from groundup.kernels.plan import Hole, Plan, Register
from groundup.nn.step import STACK, Step, stacked
from groundup.nn.surgery import device_of, replace


class Part(nn.Module):
    """What one adapter does to one linear. Shapes: x [T, in], y [T, out]."""

    @property
    def alone(self) -> bool:
        """It needs the base's own weight below it, so nothing may stand between."""
        return False

    def before(self, x: Shaped[Tensor, "T ..."]) -> Shaped[Tensor, "T ..."]:
        """The linear's input."""
        return x

    def after(self, y: Float[Tensor, "T O"], x: Shaped[Tensor, "T ..."], linear: Any) -> Float[Tensor, "T O"]:
        """The linear's output; y is fresh and may be changed in place, x is what `before` was given."""
        return y

    def lower_before(self, plan: Plan, x: Register, name: str) -> Register:
        """`before` as operations of a plan, for the rows that use the adapter. Raises `Hole` where there are none."""
        if type(self).before is not Part.before:
            raise Hole(f"adapter {name}")
        return x

    def lower_after(self, plan: Plan, y: Register, x: Register, name: str) -> Register:
        """`after`, likewise."""
        if type(self).after is not Part.after:
            raise Hole(f"adapter {name}")
        return y

    def folded(self, linear: Any) -> Any:
        """A linear that does the same alone. Raises UsageError where there is none."""
        raise UsageError("this method cannot be merged into the weights: keep its adapter beside the model")


class Adapted(nn.Module):
    """A linear with the parts of one or more adapters. Shapes: x [T, in], or an embedding's ids [T] -> [T, out]."""

    def __init__(self, base: Any):
        super().__init__()
        self.base = base
        self.parts = nn.ModuleDict()

    def forward(self, x: Shaped[Tensor, "T ..."], step: Step) -> Float[Tensor, "T O"]:
        used = step.adapters
        if used is None:
            return self.base(x, step)
        if isinstance(used, str):
            given, seen = _into(self.stack(used), x)
            return _out_of(self.stack(used), self.base(given, step), seen, self.base)
        groups = [(stack, at) for name, at in step.by_adapter().items() if (stack := self.stack(name))]
        given, saw = x, list[list[Tensor]]()
        for stack, at in groups:
            rows = x[at]
            changed, seen = _into(stack, rows)
            saw.append(seen)
            if changed is not rows:
                given = given.index_copy(0, at, changed)
        y = self.base(given, step)
        for (stack, at), seen in zip(groups, saw, strict=True):
            y = y.index_copy(0, at, _out_of(stack, y[at], seen, self.base))
        return y

    def lower(self, plan: Plan, x: Register) -> Register:
        held = [(name, cast(Part, part)) for name, part in self.parts.items()]
        given = x
        for name, part in held:  # a row uses one adapter here: a stack of them is not lowered
            given = part.lower_before(plan, given, name)
        y = plan.lower(self.base, given, self.base.weight.shape[0])
        for name, part in held:
            y = part.lower_after(plan, y, x, name)
        return y

    @property
    def weight(self) -> Any:
        """The storage of what is wrapped."""
        return self.base.weight

    def part(self, name: str) -> Part | None:
        """The part of this adapter, None where it does not touch this linear."""
        return cast(Part, self.parts[name]) if name in self.parts else None

    def stack(self, names: str) -> list[Part]:
        """The parts of these adapters here, the lowest first."""
        return [part for name in stacked(names) if (part := self.part(name)) is not None]


def _into(stack: Sequence[Part], x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """What the base is given for x, and what each part was given, the lowest first."""
    seen: list[Tensor] = []
    for part in reversed(stack):
        seen.insert(0, x)
        x = part.before(x)
    return x, seen


def _out_of(stack: Sequence[Part], y: Tensor, seen: Sequence[Tensor], base: Any) -> Tensor:
    """What the stack makes of the base's y."""
    for part, x in zip(stack, seen, strict=True):
        y = part.after(y, x, base)
    return y


def refuse_stack(network: nn.Module, names: Sequence[str]) -> None:
    """UsageError where these adapters, the lowest first, cannot be used together."""
    if len(set(names)) < len(names):
        raise UsageError(f"{STACK.join(names)}: an adapter stands once in a stack")
    for path, holder in network.named_modules():
        if isinstance(holder, Adapted):
            above = [name for name in names if holder.part(name) is not None][1:]
            for name in above:
                if cast(Part, holder.part(name)).alone:
                    raise UsageError(
                        f"{STACK.join(names)}: {name} stretches the rows of the base's own weight, and another adapter "
                        f"is below it on {path}: put {name} first"
                    )


def put(network: nn.Module, path: str, name: str, part: Part) -> None:
    """Put a part on the linear `path` (a canonical name) of this very network, under the adapter's name."""
    try:
        found = network.get_submodule(path)
    except AttributeError:
        raise UsageError(f"adapter {name}: this model has no linear {path}") from None
    if not isinstance(found, Adapted):
        found = Adapted(found)
        replace(network, path, found)
    if name in found.parts:
        raise UsageError(f"an adapter {name!r} is on {path} already; give the new one another name")
    found.parts[name] = part.to(device_of(found.base))


def parts(network: nn.Module, name: str) -> dict[str, Part]:
    """The parts of one adapter by the canonical names of their linears."""
    found: dict[str, Part] = {}
    for path, holder in network.named_modules():
        if isinstance(holder, Adapted) and (part := holder.part(name)) is not None:
            found[path] = part
    return found


def unwrapped(network: nn.Module, names: Sequence[str] = ()) -> None:
    """Take every wrapper of this very network away; the parts of the adapters `names` are folded into the weights."""
    for path, holder in list(network.named_modules()):
        if not isinstance(holder, Adapted):
            continue
        base = copy.copy(holder.base)
        base._parameters, base._modules = dict(base._parameters), dict(base._modules)
        for name in names:
            part = holder.part(name)
            if part is not None:
                base = part.folded(base)
        replace(network, path, base)
