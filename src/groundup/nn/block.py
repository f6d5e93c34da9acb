"""A block is data: an ordered list of residual branches.

        x ──┬── before ── core ── on_output ──(+)── after ── next branch
            └─────────────────────────────────┘

GPT-2 and Llama have `before`, BERT and the first Transformer `after`. Forward, checkpointing, freezing, pictures and
lowering walk the same list.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from jaxtyping import Float
from torch import Tensor, nn

from groundup.kernels.plan import Plan, Register
from groundup.nn.step import Step


@dataclass(frozen=True)
class Branch:
    """One residual branch. No module: the block registers the parts under the canonical names.

    name        `attn`, `cross`, `mlp`: the core's name; its norm is `<name>_norm`
    before      norm on the input
    on_output   norm on what the core gives, before adding (`<name>_out_norm`)
    after       norm on the sum
    adds_to     "input" (the usual), or "normed": the sum starts from the normed input (BLOOM's option)
    beside      reads what the branch before it read, not that branch's sum (a parallel residual: GPT-NeoX)
    """

    name: str
    core: nn.Module
    before: nn.Module | None = None
    on_output: nn.Module | None = None
    after: nn.Module | None = None
    adds_to: str = "input"
    beside: bool = False


@dataclass(frozen=True)
class _Plan:
    core: str
    before: str | None
    on_output: str | None
    after: str | None
    from_normed: bool
    beside: bool


class Block(nn.Module):
    """Runs its branches one after the other. Shapes: x [T, D] -> [T, D]."""

    def __init__(self, *branches: Branch):
        super().__init__()
        plan = []
        for b in branches:
            if b.before is not None and b.after is not None:
                raise ValueError(f"branch {b.name}: a norm both before and after would share one name")
            self.add_module(b.name, b.core)
            norm, out = f"{b.name}_norm", f"{b.name}_out_norm"
            for name, part in ((norm, b.before or b.after), (out, b.on_output)):
                if part is not None:
                    self.add_module(name, part)
            plan.append(
                _Plan(
                    b.name,
                    norm if b.before is not None else None,
                    out if b.on_output is not None else None,
                    norm if b.after is not None else None,
                    b.adds_to == "normed",
                    b.beside,
                )
            )
        self.plan = tuple(plan)

    def forward(self, x: Float[Tensor, "T D"], step: Step) -> Float[Tensor, "T D"]:
        parts = cast(dict[str, nn.Module], self._modules)
        read = x
        for p in self.plan:
            read = read if p.beside else x
            normed = read if p.before is None else parts[p.before](read, step)
            y = parts[p.core](normed, step)
            if p.on_output is not None:
                y = parts[p.on_output](y, step)
            x = (normed if p.from_normed else x) + y
            if p.after is not None:
                x = parts[p.after](x, step)
        return x

    def lower(self, plan: Plan, x: Register) -> Register:
        parts = cast(dict[str, nn.Module], self._modules)
        read = x
        for p in self.plan:
            read = read if p.beside else x
            normed = read if p.before is None else plan.lower(parts[p.before], read)
            y = plan.lower(parts[p.core], normed)
            if p.on_output is not None:
                y = plan.lower(parts[p.on_output], y)
            x = plan.add(normed if p.from_normed else x, y)
            if p.after is not None:
                x = plan.lower(parts[p.after], x)
        return x
