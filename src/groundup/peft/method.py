"""What every method of tuning is: settings that can be put on a network, trained, folded, and written down.

A method is one file: a dataclass of settings (its fields are the flags of the command line) and the modules that it
puts in. Where they go is one of three seams: a `Part` on a linear (`adapted`), a `Front` before the rows (`front`), or
the base's own numbers (`full`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from jaxtyping import Float
from torch import Tensor, nn

from groundup.core.errors import UsageError
from groundup.core.rules import Rules
from groundup.nn.step import STACK
from groundup.nn.surgery import linears, shared, weight_of
from groundup.peft.adapted import parts, unwrapped
from groundup.peft.front import fronts

Net = TypeVar("Net", bound=nn.Module)
Encode = Callable[[str], list[int]]
PREFIX = "base_model.model."  # before a public module's name in PEFT's files
FRONT_PREFIX = "base_model."  # the same, of methods that wrap no module


@dataclass(frozen=True)
class Method(ABC):
    """Base of all methods; a subclass is a frozen dataclass of its settings.

    kind           the name on the command line
    peft_type      the name in adapter_config.json
    whole          the base's own numbers are trained: what is saved is a whole model
    learning_rate  the highest one that it usually needs
    objective      the one objective that it learns by, where it is not all of them
    head_prefix    what PEFT writes before the name of a head that is trained beside it
    """

    kind: ClassVar[str]
    peft_type: ClassVar[str]
    whole: ClassVar[bool] = False
    learning_rate: ClassVar[float] = 1e-3
    objective: ClassVar[str | None] = None
    head_prefix: ClassVar[str] = PREFIX

    @abstractmethod
    def add(self, network: Net, name: str, *, seed: int = 0, encode: Encode | None = None) -> Net:
        """A copy of the network that shares every weight, with a fresh adapter `name`.

        encode: text to ids, for methods that begin with words. Raises UsageError where the method has no place.
        """

    def trained(self, network: nn.Module, name: str) -> dict[str, nn.Parameter]:
        """What training moves, each parameter once."""
        return of_adapter(network, name)

    def begin_as(self, network: nn.Module, name: str, held: Mapping[str, Tensor]) -> None:
        """Give the fresh adapter `name` of this very network the numbers of another of its kind (what `trained` gives).

        UsageError for kinds that cannot.
        """
        raise UsageError(
            f"start: prompts begin as others do, {self.kind} adapters do not; go on training the other one"
        )

    def penalty(self, network: nn.Module, name: str) -> Float[Tensor, ""] | None:
        """What the method adds to the mean loss in training, if anything."""
        return None

    def merged(self, network: Net, name: str) -> Net:
        """A copy with the adapter folded into the weights and no wrappers left. UsageError where that is impossible."""
        return folded(network, {name: self})

    @classmethod
    def combined(
        cls, network: nn.Module, weights: Mapping[str, float], name: str, *, rank: int | None = None
    ) -> Method:
        """Put the weighted sum of adapters of this kind on this very network, under `name`; gives its settings.

        rank: of the sum, for kinds that have one. UsageError where there is no such sum.
        """
        raise UsageError(
            f"combine: {cls.kind} adapters have no weighted sum; use them together as {STACK.join(weights)}"
        )

    @abstractmethod
    def written(self, network: nn.Module, name: str, rules: Rules) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Settings and tensors in PEFT's layout (or, for a method that PEFT does not have, in ours)."""

    @classmethod
    @abstractmethod
    def read(
        cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor], network: nn.Module, name: str, rules: Rules
    ) -> Method:
        """Put what `written` gave on this very network; gives the settings. Raises GroundupError for what has no place."""

    def described(self, network: nn.Module, name: str) -> str:
        """One line: what is trained, and how much."""
        found = self.trained(network, name)
        return f"{self.kind}: {sum(p.numel() for p in found.values()):,} trained numbers in {len(found)} tensors"


def folded(network: Net, methods: Mapping[str, Method]) -> Net:
    """A copy with these adapters folded in, the lowest first, and no wrappers left. UsageError where one cannot be."""
    for name, method in methods.items():
        if name in fronts(network):
            raise UsageError(f"merge: {method.kind} puts something before every row, which no weight can hold")
    return plain(network, list(methods))


def of_adapter(network: nn.Module, name: str) -> dict[str, nn.Parameter]:
    """The parameters of an adapter's parts and front by name, each once."""
    found: dict[str, nn.Parameter] = {}
    modules: dict[str, nn.Module] = dict(parts(network, name))
    if name in fronts(network):
        modules["front"] = fronts(network)[name]
    for path, module in modules.items():
        for last, parameter in module.named_parameters():
            if not any(parameter is p for p in found.values()):
                found[f"{path}.{last}"] = parameter
    return found


def plain(network: Net, names: list[str] | None = None) -> Net:
    """A copy without any adapter, those of `names` folded in."""
    network = shared(network)
    unwrapped(network, names or [])
    if hasattr(network, "adapters"):
        del network.adapters
    return network


# --- for `written` and `read` of methods on linears -------------------------------------------------------------------

COMMON = {
    "peft_type", "base_model_name_or_path", "revision", "task_type", "inference_mode", "auto_mapping", "peft_version",
}  # fmt: skip


def shapes(network: nn.Module) -> dict[str, tuple[int, int]]:
    """(out, in) of every linear by its canonical name."""
    return {name: weight_of(part).shape for name, part in linears(network).items()}


def whole_groups(rules: Rules, paths: list[str], sizes: Mapping[str, tuple[int, int]]) -> list[str]:
    """The linears of an adapter, and those that share a public module with one of them."""
    wanted, whole = set(paths), list[str]()
    for entry in rules.modules(list(sizes)).entries:
        if wanted & set(entry.targets):
            whole += entry.targets
    return whole + [p for p in paths if p not in whole]


def refuse_settings(config: Mapping[str, Any], read: set[str], neutral: Mapping[str, tuple[Any, ...]]) -> None:
    """UsageError for settings of an adapter_config.json that nothing here reads, or that would change the mathematics.

    neutral: keys that must have one of these values. An unknown key that is empty says nothing.
    """
    unknown = [k for k in config if k not in read and k not in neutral and k not in COMMON]
    changed = [f"{k} = {config[k]!r}" for k, v in neutral.items() if k in config and config[k] not in v]
    unknown = [k for k in unknown if config[k] not in (None, False, [], {})]
    if unknown or changed:
        raise UsageError(f"adapter_config.json has settings that are not supported: {', '.join(changed + unknown)}")
