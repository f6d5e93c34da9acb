"""(IA)³: a learned factor for every key, value and inner number of the MLP (Liu et al., arXiv 2205.05638, section 3.3).

    k' = l_k * k     v' = l_v * v     down(l_ff * inner)        all factors start at 1

A factor on what a linear gives multiplies its weight's rows, one on what it is given the columns: folding is exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from groundup.core.errors import GroundupError, UsageError
from groundup.core.rules import Rules
from groundup.kernels.plan import Plan, Register
from groundup.nn.linear import Linear
from groundup.nn.storage import Dense
from groundup.nn.surgery import linears, match, shared
from groundup.peft.adapted import Part, parts, put
from groundup.peft.method import PREFIX, Encode, Method, Net, refuse_settings, shapes, whole_groups


class Scale(Part):
    """Factors [out] on a linear's output, or [in] on its input."""

    def __init__(self, factors: Tensor, *, inputs: bool):
        super().__init__()
        self.factors = nn.Parameter(factors)
        self.inputs = inputs

    def before(self, x: Float[Tensor, "T I"]) -> Float[Tensor, "T I"]:
        return x * self.factors.to(x.dtype) if self.inputs else x

    def after(self, y: Float[Tensor, "T O"], x: Float[Tensor, "T I"], linear: Linear) -> Float[Tensor, "T O"]:
        return y if self.inputs else y * self.factors.to(y.dtype)

    def lower_before(self, plan: Plan, x: Register, name: str) -> Register:
        return plan.stretch(x, self.factors, name) if self.inputs else x

    def lower_after(self, plan: Plan, y: Register, x: Register, name: str) -> Register:
        return y if self.inputs else plan.stretch(y, self.factors, name)

    def folded(self, linear: Linear) -> Linear:
        dense, factors = linear.weight.dense(), self.factors.detach().double()
        linear.weight = Dense((dense.double() * (factors if self.inputs else factors[:, None])).to(dense.dtype))
        if linear.bias is not None and not self.inputs:
            bias = linear.bias.detach()
            linear.bias = nn.Parameter((bias.double() * factors).to(bias.dtype), requires_grad=False)
        return linear


@dataclass(frozen=True)
class IA3(Method):
    """Factors on keys, values and the MLP's inner numbers (arXiv 2205.05638)."""

    kind: ClassVar[str] = "ia3"
    peft_type: ClassVar[str] = "IA3"
    learning_rate: ClassVar[float] = 1e-2

    targets: str = "attn.k attn.v"
    """Linears whose output is scaled."""

    feedforward: str = "mlp.down"
    """Linears whose input is scaled."""

    def add(self, network: Net, name: str, *, seed: int = 0, encode: Encode | None = None) -> Net:
        network = shared(network)
        names, sizes = list(linears(network)), shapes(network)
        outer = match(names, self.targets) if self.targets.strip() else []
        inner = match(names, self.feedforward) if self.feedforward.strip() else []
        if set(outer) & set(inner):
            raise UsageError(
                f"ia3: {sorted(set(outer) & set(inner))[0]} is in targets and in feedforward; name it once"
            )
        if not outer and not inner:
            raise UsageError("ia3: targets and feedforward are both empty")
        for path in outer:
            put(network, path, name, Scale(torch.ones(sizes[path][0]), inputs=False))
        for path in inner:
            put(network, path, name, Scale(torch.ones(sizes[path][1]), inputs=True))
        return network

    def written(self, network: nn.Module, name: str, rules: Rules) -> tuple[dict[str, Any], dict[str, Tensor]]:
        held = {path: part for path, part in parts(network, name).items() if isinstance(part, Scale)}
        sizes = shapes(network)
        out: dict[str, Tensor] = {}
        modules: dict[bool, list[str]] = {True: [], False: []}
        plan = rules.modules(whole_groups(rules, list(held), sizes))
        if plan.unused:
            raise UsageError(f"PEFT's layout has no place for an adapter on {', '.join(plan.unused[:4])}")
        for entry in plan.entries:
            (module,) = entry.sources
            present = [held[t] for t in entry.targets if t in held]
            inputs = present[0].inputs
            if inputs:
                out[f"{PREFIX}{module}.ia3_l"] = present[0].factors.detach()[None]
                if any(not torch.equal(p.factors, present[0].factors) for p in present):
                    raise UsageError(f"PEFT's layout holds one input for {module}, and its parts scale theirs apart")
            else:
                blocks = [held[t].factors.detach() if t in held else torch.ones(sizes[t][0]) for t in entry.targets]
                (out[f"{PREFIX}{module}.ia3_l"],) = entry.inverse([b[:, None] for b in blocks])
            modules[inputs].append(module)
        config = {
            "target_modules": sorted(modules[True] + modules[False]),
            "feedforward_modules": sorted(modules[True]),
            "init_ia3_weights": True,
            "modules_to_save": None,
            "fan_in_fan_out": False,
        }
        return config, out

    @classmethod
    def combined(cls, network: nn.Module, weights: Mapping[str, float], name: str, *, rank: int | None = None) -> IA3:
        """Σ w_i l_i of each place; an adapter that leaves a place alone has factors of 1 there."""
        if rank is not None:
            raise UsageError("combine: factors have no rank; leave it out")
        held = {each: {p: s for p, s in parts(network, each).items() if isinstance(s, Scale)} for each in weights}
        for path in dict.fromkeys(path for scales in held.values() for path in scales):
            one = next(scales[path] for scales in held.values() if path in scales)
            if any(scales[path].inputs != one.inputs for scales in held.values() if path in scales):
                raise UsageError(f"combine: one adapter scales what {path} is given, another what it gives")
            ones = torch.ones_like(one.factors)
            each = [w * (held[n][path].factors.detach() if path in held[n] else ones) for n, w in weights.items()]
            put(network, path, name, Scale(torch.stack(each).sum(0), inputs=one.inputs).requires_grad_(False))
        return _settings(network, name)

    @classmethod
    def read(
        cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor], network: nn.Module, name: str, rules: Rules
    ) -> IA3:
        known = {"target_modules", "feedforward_modules", "fan_in_fan_out", "init_ia3_weights", "exclude_modules"}
        refuse_settings(config, known, {"modules_to_save": (None, [])})
        feed = config.get("feedforward_modules") or []
        sizes = shapes(network)
        for key, factors in tensors.items():
            module = key.removeprefix(PREFIX).removesuffix(".ia3_l")
            entry = rules.module(module) if key.endswith(".ia3_l") else None
            if entry is None or any(t not in sizes for t in entry.targets):
                raise GroundupError(f"{key} has no place in this model")
            inputs = any(module == f or module.endswith("." + f) for f in feed)
            if inputs:
                blocks = [factors.flatten()] * len(entry.targets)
            else:
                blocks = [t[:, 0] for t in entry.forward([factors.reshape(-1, 1)])]
            for target, block in zip(entry.targets, blocks, strict=True):
                wanted = sizes[target][1 if inputs else 0]
                if len(block) != wanted:
                    raise GroundupError(f"{module} has {len(block)} factors, this model wants {wanted}: another base")
                put(network, target, name, Scale(block.clone(), inputs=inputs).requires_grad_(False))
        return _settings(network, name)


def _settings(network: nn.Module, name: str) -> IA3:
    """The settings of factors that are on a network."""
    held = parts(network, name)
    of = {i: " ".join(p for p, s in held.items() if isinstance(s, Scale) and s.inputs == i) for i in (True, False)}
    return IA3(targets=of[False], feedforward=of[True])
