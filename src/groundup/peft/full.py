"""The base's own numbers: all of them, or those of the last blocks.

What is trained is copied before the run begins, so the model that was given keeps its own (unless it is used up, see
`finetune`). There is no adapter file: a run leaves a whole model in the Hugging Face layout.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from groundup.core.errors import UsageError
from groundup.core.rules import Rules
from groundup.nn.linear import Holder
from groundup.nn.storage import Dense
from groundup.nn.surgery import RESERVED, canonical
from groundup.peft.method import Encode, Method, Net, plain


@dataclass(frozen=True)
class Full(Method):
    """Train every weight."""

    kind: ClassVar[str] = "full"
    peft_type: ClassVar[str] = "GROUNDUP_FULL"
    whole: ClassVar[bool] = True
    learning_rate: ClassVar[float] = 5e-5

    def add(self, network: Net, name: str, *, seed: int = 0, encode: Encode | None = None) -> Net:
        if not self.trained(network, name):
            raise UsageError(f"{self.kind}: this model has no weight of that kind to train")
        small = [
            n for n, part in network.named_modules() if isinstance(part, Holder) and not isinstance(part.weight, Dense)
        ]
        if small:
            raise UsageError(
                f"{self.kind} trains the weights themselves, and {len(small)} of them ({small[0]}, ...) are stored in few "
                "bits, which cannot learn: tune an adapter (lora), or begin from the model as it was"
            )
        return network

    def trained(self, network: nn.Module, name: str) -> dict[str, nn.Parameter]:
        return weights(network)

    def merged(self, network: Net, name: str) -> Net:
        return plain(network)

    def written(self, network: nn.Module, name: str, rules: Rules) -> tuple[dict[str, Any], dict[str, Tensor]]:
        raise UsageError(f"{self.kind} has no adapter to write: what it trained is the whole model")

    @classmethod
    def read(
        cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor], network: nn.Module, name: str, rules: Rules
    ) -> Full:
        raise UsageError(f"{cls.kind} has no adapter to read: load the run's folder as a model")


@dataclass(frozen=True)
class Freeze(Full):
    """Train the last blocks, what stands behind them, and nothing else."""

    kind: ClassVar[str] = "freeze"
    peft_type: ClassVar[str] = "GROUNDUP_FREEZE"
    learning_rate: ClassVar[float] = 1e-4

    layers: int = 2
    """How many of the last blocks are trained, with the final norm and a head of its own (0: only these)."""

    def trained(self, network: nn.Module, name: str) -> dict[str, nn.Parameter]:
        held = weights(network)
        places = {
            n.rpartition(".blocks.")[0] + "|" + n.split("blocks.")[1].split(".")[0] for n in held if "blocks." in n
        }
        halves = {p.split("|")[0] for p in places}
        counts = {half: 1 + max(int(p.split("|")[1]) for p in places if p.split("|")[0] == half) for half in halves}
        if any(not 0 <= self.layers <= n for n in counts.values()):
            raise UsageError(f"layers {self.layers}: this model has {min(counts.values())} blocks")

        def last(path: str) -> bool:
            if "blocks." not in path:
                return not path.split(".")[-3:][0].startswith("embed") and ".embed." not in f".{path}"
            half, number = path.rpartition(".blocks.")[0], int(path.split("blocks.")[1].split(".")[0])
            return number >= counts[half] - self.layers

        return {n: p for n, p in held.items() if last(n)}


def weights(network: nn.Module) -> dict[str, nn.Parameter]:
    """Every weight, bias and gain of the base by its canonical name, a tied one once."""
    return {
        canonical(n).removesuffix(".values"): p
        for n, p in network.named_parameters()
        if RESERVED.isdisjoint(n.split(".")) and p.is_floating_point()
    }
