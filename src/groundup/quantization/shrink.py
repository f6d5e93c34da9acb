"""A network with some of its weights stored in another way; everything else is shared with the one that was given."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from torch import nn

from groundup.core.errors import UsageError
from groundup.nn.linear import Holder
from groundup.nn.stack import Stack
from groundup.nn.storage import Dense
from groundup.nn.surgery import canonical, match, shared
from groundup.quantization.listen import calibrated
from groundup.quantization.stored import Kind, Stored

Network = TypeVar("Network", bound=nn.Module)


def holders(network: nn.Module) -> dict[str, Holder]:
    """Every linear and every table of vectors by its canonical name, without wrappers."""
    return {canonical(path): part for path, part in network.named_modules() if isinstance(part, Holder)}


def store(
    network: Network, kind: Kind, targets: str = "all", run: Callable[[nn.Module], object] | None = None
) -> tuple[Network, list[str]]:
    """A copy whose weights at `targets` are stored as `kind`, and the names of all that are (a tied head goes along).

    targets  the ends of names ("attn.q mlp.down"), or all: the linears of the blocks
    run      reads texts in one call (`listen.calibrated`), for rounding by what they send through the linears
    Raises UsageError for a word that names nothing, and for a weight that is stored in few bits already.
    """
    network = shared(network)
    found = holders(network)
    chosen = [found[name] for name in match(list(found), targets)]
    for part in network.modules():
        if isinstance(part, Stack) and part.format is None and isinstance(part.embed.tokens.weight, Dense):
            part.format = part.embed.tokens.weight.values.dtype  # rows of a stored table are float32
    for holder in chosen:
        if isinstance(holder.weight, Stored):
            name = next(n for n, other in found.items() if other is holder)
            raise UsageError(f"{name} is stored as {holder.weight.kind.name} already: begin from the model as it was")
    before = {id(holder): holder.weight for holder in found.values()}  # kept alive, so that no id is given twice
    made: dict[int, Stored] = {}
    if run is not None:
        made = calibrated(network, kind, chosen, run)
    else:
        for holder in chosen:
            if id(holder.weight) not in made:
                made[id(holder.weight)] = kind.store(holder.weight.dense())
    told = []
    for name, holder in found.items():
        holder.weight = before[id(holder)]
        if id(holder.weight) in made:
            holder.weight = made[id(holder.weight)]
            told.append(name)
    return network, told


def loosened(network: Network) -> Network:
    """A copy in which every weight is a plain matrix again, as its codes have it."""
    network = shared(network)
    plain: dict[int, Dense] = {}
    for holder in holders(network).values():
        if isinstance(holder.weight, Stored):
            holder.weight = plain.setdefault(id(holder.weight), Dense(holder.weight.dense()))
    return network


def stored(network: nn.Module) -> dict[str, Stored]:
    """What is stored in few bits, by the name of what holds it; a tied weight once, under its first name."""
    found: dict[str, Stored] = {}
    seen: set[int] = set()
    for name, holder in holders(network).items():
        if isinstance(holder.weight, Stored) and id(holder.weight) not in seen:
            seen.add(id(holder.weight))
            found[name] = holder.weight
    return found


def nbytes(network: nn.Module) -> int:
    """What the weights take, each once."""
    return sum(t.nbytes for t in {t.data_ptr(): t for t in [*network.parameters(), *network.buffers()]}.values())
