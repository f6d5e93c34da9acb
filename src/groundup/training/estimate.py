"""What a tuning run will take - memory, time, energy, money - before anything of the model's size is fetched or allocated.

memory   its first update is gone through without numbers (`forecast`)
time     networks as wide as the model and one or two blocks deep, from random numbers, are really trained for a few
         seconds; what a block adds, times the blocks, is the model's
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from groundup.adapting import adapt
from groundup.checkpoints.load import Loaded
from groundup.checkpoints.outline import outline
from groundup.core import machine
from groundup.core.costs import Bill, Rates
from groundup.core.errors import UsageError
from groundup.inputs.tokenizer import Encoded
from groundup.model import Model
from groundup.nn.heads import head_of
from groundup.nn.stack import EncoderDecoder, Stack
from groundup.nn.surgery import in_format, with_copies, without_numbers
from groundup.peft.lora import LoRA
from groundup.peft.method import Method
from groundup.quantization.kinds import parse
from groundup.quantization.shrink import store
from groundup.quantization.stored import Kind, Stored
from groundup.training.finetune import encoded_rows, what_is_learned
from groundup.training.forecast import Memory, cache_bytes, held, needed, of
from groundup.training.loop import Trainer
from groundup.training.objective import Objective
from groundup.training.optimizers import refuse_unread, usual_rate
from groundup.training.seq2seq import Pair
from groundup.training.settings import Aim, Settings
from groundup.training.start import begin
from groundup.training.which import objective_for

Say = Callable[[str], None]
SECONDS = 10.0  # of measuring, about


@dataclass(frozen=True)
class Estimate:
    """What a run takes.

    memory        in bytes (`Memory`)
    program       bytes of the program itself, with its libraries
    peak          bytes, all told
    room          bytes that this machine has for it
    update        seconds of one update; tokens: of one update
    updates       of the whole run; None where the rows are not known
    seconds, bill  of the whole run
    cache         bytes that answering keeps of each token read or written (float32); None: the model writes no text
    smaller       the flags that would make it fit, where it does not
    """

    memory: Memory
    program: int
    peak: int
    room: int
    update: float
    tokens: float
    updates: int | None
    seconds: float | None
    bill: Bill | None
    cache: int | None
    smaller: str | None = None

    @property
    def fits(self) -> bool:
        return self.peak <= self.room

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.update

    def facts(self) -> dict[str, Any]:
        """For files: everything as plain numbers."""
        told = asdict(self)
        return {**told, "fits": self.fits, "tokens_per_second": self.tokens_per_second}


@dataclass(frozen=True)
class Job:
    """The run that is asked about: a model, with numbers or without, what is learned, and how."""

    model: Model
    method: Method
    kind: Kind | None
    settings: Settings
    objective: Objective
    rows: Sequence[Any]


def estimate(
    model: str | Path,
    method: Method | None = None,
    *,
    store: str | Kind | None = None,
    data: str | Path | Sequence[dict[str, Any]] | None = None,
    validation: str | Path | None = None,
    length: int = 256,
    max_tokens: int | None = None,
    aim: Aim = Aim(),
    rates: Rates = Rates(),
    memory: int | None = None,
    timed: bool = True,
    revision: str | None = None,
    device: str = "cpu",
    say: Say = lambda text: None,
    **settings: Any,
) -> Estimate:
    """What `finetune` with the same settings would take, from a model's config or header alone.

    model     as of `load`; a config.json is enough
    method    default: LoRA()
    store     what the base would be stored in meanwhile: int8, nf4, int4 ... (`quantize`)
    data, validation   the rows, as of `finetune`; without them, every row is `length` tokens, all of them trained
    memory    the bytes that there are for it (default: what is free here)
    timed     False: nothing is measured, so no seconds
    settings  as of `finetune`: batch, accumulate, optimizer, precision, checkpointing, steps, epochs, minutes ...

    Raises UsageError for a model that is not supported, and for a method or rows that do not go with it.
    """
    given = Settings.named(settings)
    refuse_unread(given)
    if length < 2 or (memory is not None and memory < 1):
        raise UsageError(
            f"estimate: rows of {length} tokens in {memory} bytes make no run; give 2 tokens and 1 byte or more"
        )
    kind = parse(store) if isinstance(store, str) else store
    method = LoRA() if method is None else method
    if kind is not None and method.whole:
        raise UsageError(f"store {store}: weights in few bits cannot learn, so {method.kind} has no use for it")
    found = outline(model, revision=revision)
    program = machine.resident_memory()
    room = machine.free_memory() if memory is None else memory
    if given.precision == "auto":
        precision, why = machine.choose("train")
        say(why)
        given = replace(given, precision=precision)  # type: ignore[arg-type]
    rate = given.learning_rate or usual_rate(given.optimizer, method.learning_rate)
    given = replace(given, learning_rate=rate)
    network = without_numbers(found.network, {}, device)[0]
    empty = Model(network, found.family, found.config, found.tokenizer, found.origin, found.generation)
    if data is None:
        tokens = [1] * length
        row: Encoded = Encoded(tokens, [True] * length)
        if isinstance(empty.network, EncoderDecoder):
            row = Pair(tokens, [False] * length, length // 2)
        objective, rows = objective_for(empty), [row] * given.batch
    else:
        empty, read, reader, objective = what_is_learned(empty, data, None, aim, given, say)
        rows, _ = encoded_rows(empty, read, reader, validation, max_tokens, objective, given.seed, say)
    job = Job(empty, method, kind, given, objective, rows)
    needs = _memory(job)
    peak = program + needs.peak
    updates = _updates(given, None if data is None else len(rows))
    each = sum(len(row.ids) for row in rows) / len(rows) * given.batch * given.accumulate
    update = _seconds(job, found) * each if timed else float("nan")
    seconds = given.minutes * 60 if given.minutes is not None else None if updates is None else updates * update
    smaller = None if peak <= room else _smaller(job, room - program)
    bill = None if seconds is None or not timed else rates.bill(seconds)
    return Estimate(
        needs, program, peak, room, update, each, updates, seconds, bill, cache_bytes(network, device), smaller
    )


def _updates(settings: Settings, rows: int | None) -> int | None:
    if settings.steps is not None or settings.minutes is not None or rows is None:
        return settings.steps
    return max(1, round((settings.epochs or 1.0) * rows / (settings.batch * settings.accumulate)))


def _trainer(job: Job, *, numbers: bool) -> tuple[Trainer, int]:
    """What would train this job, and the bytes of the weights that it keeps."""
    model = job.model
    if job.kind is not None:
        small: Kind = job.kind if numbers else _Shapes(job.kind)
        model = replace(model, network=store(model.network, small)[0])
    model = adapt(model, job.method)
    assert model.adapter is not None
    learned = job.method.trained(model.network, model.adapter) | head_of(model.network)
    exact, trained = with_copies(model.network, learned, consume=True)
    network: nn.Module = in_format(exact, machine.FORMATS[job.settings.precision])
    weights = held(of(exact), of(network))
    if not numbers:
        network, trained = without_numbers(network, trained)
    penalty = lambda: job.method.penalty(network, str(model.adapter))
    settings = replace(job.settings, steps=job.settings.steps or 1, epochs=None, minutes=None)
    trainer = Trainer(
        network, trained, job.rows, job.rows, settings, objective=job.objective, penalty=penalty, out=Path(),
        adapter=model.adapter, keep=lambda path: None, device=model.device,
    )  # fmt: skip
    return trainer, weights


def _memory(job: Job) -> Memory:
    return needed(*_trainer(job, numbers=False))


@dataclass(frozen=True)
class _Shapes(Kind):
    """Stores as another kind does, of zeros and each shape once: all that is known of a matrix without numbers."""

    name = "shapes"
    of: Kind

    def store(self, weight: Tensor) -> Stored:
        return without_numbers(_of_zeros(self.of, tuple(weight.shape)), {})[0]

    def read(self, held: Mapping[str, Tensor], shape: tuple[int, int]) -> Stored:
        return self.of.read(held, shape)


@cache
def _of_zeros(kind: Kind, shape: tuple[int, ...]) -> Stored:
    return without_numbers(kind.store(torch.zeros(shape)), {})[0]


# --- time -------------------------------------------------------------------------------------------------------------


def _seconds(job: Job, found: Loaded) -> float:
    """The seconds of an update for each of its tokens, by networks of few blocks (ten seconds of measuring, about)."""
    depths = [len(part.blocks) for part in found.network.modules() if isinstance(part, Stack)]
    shallow = [1] * len(depths)
    began = time.monotonic()
    once, count = _timed(job, found, shallow, 1, 0.0)  # warms up, and says how many rows there is time for
    share = SECONDS / (2 * (1 + len(depths)))
    most = max(1, min(len(job.rows), job.settings.batch, int(share / max(once * count, 1e-6) / 2)))
    base, _ = _timed(job, found, shallow, most, share)
    total = base
    for i, depth in enumerate(depths):
        if depth > 1:
            deeper, _ = _timed(job, found, [2 if i == j else 1 for j in range(len(depths))], most, share)
            total += (depth - 1) * max(0.0, deeper - base)
    assert time.monotonic() >= began
    return total


def _timed(job: Job, found: Loaded, depths: Sequence[int], rows: int, limit: float) -> tuple[float, int]:
    """The least seconds a token that an update of so many rows took within the limit, and of how many tokens it was."""
    network = copy.deepcopy(job.model.network if job.model.config is not found.config else found.network)
    stacks = [part for part in network.modules() if isinstance(part, Stack)]
    for part, depth in zip(stacks, depths, strict=True):
        part.blocks = part.blocks[:depth]
    with torch.device(job.model.device):
        network = _filled(network)
    order = sorted(job.rows, key=lambda row: len(row.ids))
    middle = (len(order) - rows) // 2
    chosen = order[middle : middle + rows]
    trainer, _ = _trainer(replace(job, model=replace(job.model, network=network), rows=chosen), numbers=True)
    tokens, best, until = sum(len(row.ids) for row in chosen), float("inf"), time.perf_counter() + limit
    while True:
        start = time.perf_counter()
        trainer.update([list(chosen)], 0.0)
        best = min(best, time.perf_counter() - start)
        if time.perf_counter() + best > until:
            return best / tokens, tokens


def _filled(network: nn.Module) -> Any:
    """The same network with random numbers in place of none."""
    made: dict[int, object] = {}
    for tensor in of(network):
        real = torch.empty(tensor.shape, dtype=tensor.dtype)
        made[id(tensor)] = nn.Parameter(real, requires_grad=False) if isinstance(tensor, nn.Parameter) else real.zero_()
    network = copy.deepcopy(network, made)
    begin(network)
    return network


# --- what would fit ---------------------------------------------------------------------------------------------------


def _smaller(job: Job, room: int) -> str | None:
    """Flags for the same run in this many bytes: first those that change no number of the result but its speed."""
    batch, steps = job.settings.batch, list[tuple[str, Settings]]()
    few = 1 if job.settings.optimizer == "lomo" else 0
    while batch % 2 == 0 and not few:
        batch //= 2
        accumulate = job.settings.batch // batch * job.settings.accumulate
        smaller = replace(job.settings, batch=batch, accumulate=accumulate)
        steps.append((f"--batch {batch} --accumulate {accumulate}", smaller))
    tried = [*steps, ("--checkpointing", replace(job.settings, checkpointing=True))]
    tried += [(f"{flags} --checkpointing", replace(small, checkpointing=True)) for flags, small in steps]
    for flags, settings in tried:
        if settings != job.settings and _memory(replace(job, settings=settings)).peak <= room:
            return flags
    return None
