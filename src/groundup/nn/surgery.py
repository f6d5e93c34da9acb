"""Cutting into a network without touching the one that was given: copies that share every tensor, and finding parts."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from typing import TypeVar, cast

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from groundup.core.errors import UsageError
from groundup.nn.linear import Embedding, Linear
from groundup.nn.stack import Stack
from groundup.nn.storage import Dense, Storage

EXPERT = re.compile(r"\.experts\.\d+\.")

Network = TypeVar("Network", bound=nn.Module)

BASE = ".base"  # where a wrapper keeps what it wraps; no canonical name has it
RESERVED = frozenset({"parts", "adapters"})  # where adapters keep what they add; no canonical name has them either


def shared(network: Network) -> Network:
    """A copy of the modules that holds the very same tensors; ties between storages are kept."""
    memo: dict[int, object] = {id(t): t for t in [*network.parameters(), *network.buffers()]}
    return copy.deepcopy(network, memo)


def with_copies(
    network: Network, trained: Mapping[str, nn.Parameter], *, consume: bool = False
) -> tuple[Network, dict[str, nn.Parameter]]:
    """A copy that shares all but `trained`, and its own parameters under their names, ready for gradients.

    consume  float32 numbers of `trained` are not copied: training will change those of the network that was given
    """
    memo: dict[int, object] = {id(t): t for t in [*network.parameters(), *network.buffers()]}
    fresh = {name: nn.Parameter(p.detach().to(torch.float32, copy=not consume)) for name, p in trained.items()}
    memo |= {id(p): fresh[name] for name, p in trained.items()}
    return copy.deepcopy(network, memo), fresh


def in_format(network: Network, dtype: torch.dtype) -> Network:
    """A copy whose frozen numbers and activations are `dtype`; what is trained stays as it is and is shared."""
    frozen = [p for p in network.parameters() if not p.requires_grad and p.is_floating_point()]
    stacks = [m for m in network.modules() if isinstance(m, Stack)]
    if all(p.dtype == dtype for p in frozen) and all(s.format in (None, dtype) for s in stacks):
        return network
    memo: dict[int, object] = {id(t): t for t in [*network.parameters(), *network.buffers()]}
    memo |= {id(p): nn.Parameter(p.detach().to(dtype), requires_grad=False) for p in frozen}
    made = copy.deepcopy(network, memo)
    for part in made.modules():
        if isinstance(part, Stack):
            part.format = dtype
    return made


def without_numbers(
    network: Network, trained: Mapping[str, nn.Parameter], device: torch.device | str = "cpu"
) -> tuple[Network, dict[str, nn.Parameter]]:
    """A copy that computes shapes alone, as if it were on `device`, and its parameters for those of `trained`.

    Nothing of the network's size is allocated; whatever is computed from its tensors has no numbers either.
    """
    made: dict[int, Tensor] = {}
    with FakeTensorMode(allow_non_fake_inputs=True):
        for tensor in [*network.parameters(), *network.buffers(), *trained.values()]:
            empty = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device)
            if isinstance(tensor, nn.Parameter):
                empty = nn.Parameter(empty, requires_grad=tensor.requires_grad)
            made.setdefault(id(tensor), empty)
    fakes = {name: cast(nn.Parameter, made[id(p)]) for name, p in trained.items()}
    return copy.deepcopy(network, dict[int, object](made)), fakes


def canonical(path: str) -> str:
    """The name a part has without wrappers: `blocks.0.attn.q.base` -> `blocks.0.attn.q`."""
    return path.replace(BASE + ".", ".").removesuffix(BASE)


def linears(network: nn.Module) -> dict[str, nn.Module]:
    """Every linear by its canonical name, wrapped or not (a wrapper stands for the linear inside it)."""
    found: dict[str, nn.Module] = {}
    for path, part in network.named_modules():
        if isinstance(part, Linear):
            name = canonical(path)
            found[name] = network.get_submodule(path.removesuffix(BASE)) if path.endswith(BASE) else part
    return found


def embeddings(network: nn.Module) -> dict[str, Embedding]:
    """Every table of vectors at the front (words, learned positions, token types) by its canonical name, without wrappers."""
    found = {canonical(path): part for path, part in network.named_modules() if isinstance(part, Embedding)}
    return {path: part for path, part in found.items() if "embed." in path}


def weight_of(part: nn.Module) -> Storage:
    """The storage of a linear, wrapped or not."""
    inside = getattr(part, "base", part)
    assert isinstance(inside, Linear)
    return inside.weight


def device_of(part: nn.Module) -> torch.device:
    """Where a part's numbers lie; what is stored in few bits has buffers alone."""
    return next(t for tensors in (part.parameters(), part.buffers()) for t in tensors).device


def replace(network: nn.Module, name: str, part: nn.Module) -> None:
    """Put `part` where `name` stands."""
    parent, _, last = name.rpartition(".")
    setattr(network.get_submodule(parent), last, part)


def match(names: Iterator[str] | list[str], targets: str) -> list[str]:
    """The names that end in one of the words of `targets` (`attn.q mlp.down`, or `all`: linears of blocks).

    An expert's linear goes by the name that it would have in a plain MLP as well: mlp.down is that of every expert.

    Raises UsageError for a word that matches nothing, with the words that would.
    """
    names = list(names)
    words = targets.replace(",", " ").split()
    chosen: set[str] = set()
    for word in words:
        hits = {n for n in names if word == "all" or any(f".{m}".endswith(f".{word}") for m in (n, EXPERT.sub(".", n)))}
        if word == "all":
            hits = {n for n in hits if "blocks" in n.split(".")}
        if not hits:
            kinds = sorted({".".join(n.split(".")[-2:]) for n in names})
            raise UsageError(f"targets: {word!r} names no part of this model; there are {', '.join(kinds)}")
        chosen |= hits
    if not words:
        raise UsageError("targets is empty: name at least one linear, such as attn.q")
    return [n for n in names if n in chosen]


def numbers(network: nn.Module) -> dict[str, Storage | torch.Tensor]:
    """Every weight as its storage, every bias and gain, under its canonical name; a tied storage once, where it is first."""
    found: dict[str, Storage | torch.Tensor] = {}
    seen: set[int] = set()
    for path, part in network.named_modules():
        name = canonical(path)
        if isinstance(part, Linear | Embedding):
            if id(part.weight) not in seen:
                seen.add(id(part.weight))
                found[f"{name}.weight"] = part.weight
            if isinstance(part, Linear) and part.bias is not None:
                found[f"{name}.bias"] = part.bias
        elif not isinstance(part, Dense) and RESERVED.isdisjoint(path.split(".")):
            for last, parameter in part.named_parameters(recurse=False):
                found[f"{name}.{last}" if name else last] = parameter
    return found


def tensors(network: nn.Module) -> dict[str, torch.Tensor]:
    """The same as ordinary numbers."""
    return {name: x if isinstance(x, torch.Tensor) else x.dense() for name, x in numbers(network).items()}


def missing(network: nn.Module) -> list[str]:
    """The names of those that have no numbers yet."""
    plain = {name: x.values if isinstance(x, Dense) else x for name, x in numbers(network).items()}
    return [name for name, x in plain.items() if isinstance(x, torch.Tensor) and x.is_meta]
