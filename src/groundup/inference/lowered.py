"""One more token of each running row by the compiled library: the decoder's parts as one plan (`kernels.plan`).

The front (embeddings, and what adapters do there) stays in PyTorch, and so does whatever leaves a hole; both see the same cache.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from groundup.core.machine import threads
from groundup.kernels.library import Call, Library, library
from groundup.kernels.plan import FORMATS, LINE, Place, Plan, lay, run
from groundup.nn.cache import Slots
from groundup.nn.stack import Decoder
from groundup.nn.step import STACK, Step

WINDOW = 256  # positions by which tables of angles grow at once


class Lowered:
    """A decoder's step, for rows that stand first in a cache. `holes`: the parts that PyTorch runs, and why."""

    def __init__(self, network: Decoder, found: Library, plan: Plan, width: int):
        self.network, self.library, self.plan, self.holes = network, found, plan, plan.holes
        x = plan.register(width)
        self.laid = lay(plan, x, network.lower(plan, x))
        self.rows = self.threads = self.positions = 0
        self.call = Call()

    @staticmethod
    def of(network: object) -> Lowered | None:
        """The step of this network, or None where PyTorch had better run it."""
        if not isinstance(network, Decoder) or type(network).forward is not Decoder.forward or network.head is None:
            return None
        found = library()
        tensors = [*network.parameters(), *network.buffers()]
        if found is None or any(t.device.type != "cpu" or t.dtype == torch.float64 for t in tensors):
            return None
        plan = Plan()
        made = Lowered(network, found, plan, network.embed.tokens.weight.shape[1])
        return made if len(made.holes) <= len(network.blocks) else None

    def takes(self, step: Step) -> bool:
        """Whether this call is one token of each of the first rows of a cache that the library can read."""
        cache = step.cache
        if not isinstance(cache, Slots) or step.rows.longest != 1 or not step.rows.even or step.apart or step.taps:
            return False
        names = step.adapters if isinstance(step.adapters, tuple) else (step.adapters,)
        if any(name is not None and STACK in name for name in names) or step.slots != tuple(range(len(step.rows))):
            return False
        kept = [cache.kept.get(path) for path in self.plan.paths]
        formats = {t.dtype for pair in kept if pair is not None for t in pair}
        return None not in kept and len(formats) == 1 and formats <= set(FORMATS)

    def __call__(self, ids: Tensor, step: Step) -> Float[Tensor, "B V"]:
        """The scores of what follows each row's new token."""
        count = torch.get_num_threads()
        with threads(
            1
        ):  # after an operation on several, PyTorch's threads spin for a while, where the library's would run
            return self._scores(ids, step, count)

    def _scores(self, ids: Tensor, step: Step, count: int) -> Float[Tensor, "B V"]:
        cache = step.cache
        assert isinstance(cache, Slots)
        self._make_room(len(step.rows), cache, count)
        past, positions = torch.tensor(step.past), step.positions.long().contiguous()
        uses = self._uses(step)
        kept = [t for path in self.plan.paths for t in cache.kept[path]]
        caches = (ctypes.c_void_p * len(kept))(*(t.data_ptr() for t in kept))
        call = self.call
        call.past, call.positions, call.uses = past.data_ptr(), positions.data_ptr(), uses.data_ptr()
        call.caches, call.capacity = ctypes.addressof(caches), cache.capacity
        call.cache_format = FORMATS.index(kept[0].dtype) if kept else 0
        self._at(self.laid.first).copy_(self.network.embed(ids, step))
        for segment in self.laid.segments:
            run(self.library, segment, call)
            if segment.hole is not None:
                assert segment.given is not None and segment.made is not None
                given = self._at(segment.given).to(self.network.format or torch.float32)
                with threads(count):
                    made = segment.hole(given, step)
                self._at(segment.made).copy_(made)
        return self._at(self.laid.last).clone()

    def _at(self, place: Place) -> Float[Tensor, "B D"]:
        """A register as a tensor; of a thread's own, the first thread's."""
        room, first = (self.own, place.at) if place.own else (self.shared, place.at)
        return room[first * self.rows :][: self.rows * place.width].view(self.rows, place.width)

    def _make_room(self, rows: int, cache: Slots, count: int) -> None:
        """Registers for so many rows and threads, and tables of angles for all positions that the cache can hold."""
        call = self.call
        if (rows, count) != (self.rows, self.threads):
            self.rows, self.threads = rows, count
            each = self.laid.own * rows + LINE
            self.shared, self.own = torch.zeros(self.laid.shared * rows), torch.zeros(each * count)
            call.rows, call.threads, call.own_each = rows, count, each
            call.shared, call.own = self.shared.data_ptr(), self.own.data_ptr()
        if cache.capacity > self.positions:
            self.positions = -(-cache.capacity // WINDOW) * WINDOW
            places = torch.arange(self.positions)
            self.tables = [_angles(rotary.table(places, torch.float32)) for rotary in self.plan.tables]
            self.addresses = (ctypes.c_void_p * len(self.tables))(*(t.data_ptr() for t in self.tables))
            call.tables = ctypes.addressof(self.addresses)

    def _uses(self, step: Step) -> Tensor:
        """[adapters, rows]: whether a row uses an adapter."""
        names = step.adapters if isinstance(step.adapters, tuple) else (step.adapters,) * len(step.rows)
        return torch.tensor([[name == each for name in names] for each in self.plan.adapters], dtype=torch.uint8)


def _angles(table: Sequence[Tensor]) -> Float[Tensor, "T 2 pairs"]:
    """Cosines and sines of every position, without the second halves that say the same."""
    cos, sin = (t[:, 0] for t in table)
    pairs = cos.shape[1] // 2
    return torch.stack((cos[:, :pairs], sin[:, pairs:]), 1).contiguous()
