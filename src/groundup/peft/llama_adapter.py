"""LLaMA-Adapter: learned prompts with a softmax of their own and a gate that starts shut (Zhang et al., arXiv 2303.16199).

    out = softmax(q kᵀ) v + g · softmax(q k_Pᵀ) v_P        k_P, v_P: the layer's own projections of its prompt [P, D]

in the top layers; g starts at 0, so nothing changes at the start. The sum is formed before `o`, as in the paper and in
PEFT for Llama. (PEFT adds after `o` in GPT-2, so files of that family do not go either way.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from groundup.core.errors import GroundupError, UsageError
from groundup.core.rules import Rules
from groundup.nn.attention import Attention
from groundup.nn.cache import Fresh
from groundup.nn.linear import Linear
from groundup.nn.step import Apart, Step
from groundup.nn.surgery import linears, shared
from groundup.peft.front import Front, fronts
from groundup.peft.method import PREFIX, Encode, Method, Net, refuse_settings
from groundup.peft.prefix import places
from groundup.peft.prompt import place


class Beside(Front):
    """A prompt [P, D] and a gate [1] for each of some attentions, by their paths."""

    def __init__(self, prompts: Mapping[str, Tensor], gates: Mapping[str, Tensor]):
        super().__init__()
        self.paths = list(prompts)
        self.prompts = nn.ParameterList(nn.Parameter(t) for t in prompts.values())
        self.gates = nn.ParameterList(nn.Parameter(t) for t in gates.values())

    def beside(self, network: nn.Module, adapters: str) -> dict[str, Apart]:
        found = {}
        step = Step.of([len(self.prompts[0])], Fresh(), adapters=adapters, device=self.prompts[0].device)
        for path, prompt, gate in zip(self.paths, self.prompts, self.gates, strict=True):
            part = _attention(network, path)
            k, v = (
                project(prompt, step).unflatten(1, (part.kv_heads, part.head_dim))  # with what else the row uses
                for project in (part.k, part.v)
            )
            found[path] = Apart(k, v, gate.expand(part.heads))
        return found


def _bare(part: nn.Module) -> Linear:
    inside = getattr(part, "base", part)
    assert isinstance(inside, Linear)
    return inside


def _attention(network: nn.Module, path: str) -> Attention:
    part = network.get_submodule(path)
    assert isinstance(part, Attention)
    return part


@dataclass(frozen=True)
class LlamaAdapter(Method):
    """LLaMA-Adapter (arXiv 2303.16199)."""

    kind: ClassVar[str] = "llama-adapter"
    peft_type: ClassVar[str] = "ADAPTION_PROMPT"
    learning_rate: ClassVar[float] = 1e-2

    length: int = 10
    """How many prompts each layer has."""

    layers: int | None = None
    """In how many of the top layers; left out, all but the first two."""

    def __post_init__(self) -> None:
        if self.length < 1:
            raise UsageError(f"length {self.length}: give at least 1")

    def add(self, network: Net, name: str, *, seed: int = 0, encode: Encode | None = None) -> Net:
        network = shared(network)
        generator = torch.Generator().manual_seed(seed)
        paths = list(places(network))
        count = max(1, len(paths) - 2) if self.layers is None else self.layers
        if not 1 <= count <= len(paths):
            raise UsageError(f"layers {count}: this model has 1 to {len(paths)}")
        prompts = {}
        for path in paths[-count:]:
            width = _bare(_attention(network, path).k).in_features
            prompts[path] = torch.randn(self.length, width, generator=generator)
        place(network, name, Beside(prompts, {path: torch.zeros(1) for path in prompts}))
        return network

    def merged(self, network: Net, name: str) -> Net:
        raise UsageError("merge: llama-adapter attends to prompts of its own, which no weight can hold")

    def trained(self, network: nn.Module, name: str) -> dict[str, nn.Parameter]:
        front = fronts(network)[name]
        assert isinstance(front, Beside)
        found = {f"{path}.prompt": prompt for path, prompt in zip(front.paths, front.prompts, strict=True)}
        return found | {f"{path}.gate": gate for path, gate in zip(front.paths, front.gates, strict=True)}

    def written(self, network: nn.Module, name: str, rules: Rules) -> tuple[dict[str, Any], dict[str, Tensor]]:
        front = fronts(network)[name]
        assert isinstance(front, Beside)
        tensors: dict[str, Tensor] = {}
        modules = set()
        for path, prompt, gate in zip(front.paths, front.prompts, front.gates, strict=True):
            public = _public(network, path, rules)
            tensors[f"{PREFIX}{public}.adaption_prompt"] = prompt.detach()[None]
            tensors[f"{PREFIX}{public}.adaption_gate"] = gate.detach()
            modules.add(public.rpartition(".")[2])
        config: dict[str, Any] = {
            "adapter_len": len(front.prompts[0]),
            "adapter_layers": len(front.paths),
            "target_modules": sorted(modules)[0],
        }
        if modules != {"self_attn"}:
            config["peft_type"] = "GROUNDUP_ADAPTION_PROMPT"  # PEFT's own of this family is another sum
        return config, tensors

    @classmethod
    def read(
        cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor], network: nn.Module, name: str, rules: Rules
    ) -> LlamaAdapter:
        refuse_settings(config, {"adapter_len", "adapter_layers", "target_modules"}, {})
        by_public = {_public(network, path, rules).removeprefix(rules.prefix): path for path in places(network)}
        ours = config["peft_type"] != cls.peft_type
        if not ours and config.get("target_modules") not in (None, "self_attn"):
            raise UsageError("PEFT's adaption prompts of this family are added after `o`, which is not supported")
        prompts: dict[str, Tensor] = {}
        gates: dict[str, Tensor] = {}
        for key, tensor in tensors.items():
            public, _, last = key.removeprefix(PREFIX).rpartition(".")
            path = by_public.get(public.removeprefix(rules.prefix))
            if path is None or last not in ("adaption_prompt", "adaption_gate"):
                raise GroundupError(f"{key} has no place in this model")
            if last == "adaption_prompt":
                prompts[path] = tensor.flatten(0, -2)
                wanted = (int(config["adapter_len"]), _bare(_attention(network, path).k).in_features)
                if tuple(prompts[path].shape) != wanted:
                    raise GroundupError(
                        f"{key} is {tuple(prompts[path].shape)}, this model wants {wanted}: another base"
                    )
            else:
                gates[path] = tensor.flatten()
        if set(prompts) != set(gates):
            raise GroundupError("prompts and gates are not of the same layers")
        ordered = [path for path in places(network) if path in prompts]
        front = Beside({p: prompts[p].clone() for p in ordered}, {p: gates[p].clone() for p in ordered})
        place(network, name, front.requires_grad_(False))
        return cls(length=int(config["adapter_len"]), layers=len(ordered))


def _public(network: nn.Module, path: str, rules: Rules) -> str:
    """The public name of an attention: what the public name of its `v` stands in."""
    group = [n for n in linears(network) if n.startswith(path + ".") and n.rpartition(".")[2] in ("q", "k", "v")]
    (entry, *_) = rules.modules(group).entries
    return entry.sources[0].rpartition(".")[0]
