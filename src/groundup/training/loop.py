"""The one loop: batches in, gradients, an update; now and then a validation, a saved state, a line in the log.

run.json      the settings as plain flags, the base, the data
log.jsonl     a line an update, a line a validation
loss.png      the two drawn
best/ last/   adapters in PEFT's layout; average/ beside them where the settings ask for it
state-*/      what a killed run goes on from, to the bit
"""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from groundup.core.errors import GroundupError
from groundup.core.files import atomic_write
from groundup.core.machine import peak_memory
from groundup.core.plots import loss_curve
from groundup.data.batches import Batches, Place
from groundup.nn.stack import Stack
from groundup.training import state
from groundup.training.average import Average
from groundup.training.lomo import Lomo
from groundup.training.objective import CAUSAL, Objective, mean_loss
from groundup.training.optimizers import optimizer_for
from groundup.training.settings import Settings

KeepAdapter = Callable[[Path], None]
Tell = Callable[..., None]


@dataclass(frozen=True)
class Run:
    """What a run left: where, which adapter is the best and which the last, and the losses.

    best_loss, last_loss   of validation, in nats a trained token
    peak_memory, expected_memory   bytes that the process held at most, and what was forecast before the first update (None: no
                           forecast, for a small network)
    average, average_step, average_loss   the best moving average of the weights, where one was asked for
    stopped_early          no validation was better for as many as the settings' patience
    """

    out: Path
    best: Path
    last: Path
    steps: int
    best_step: int
    best_loss: float
    last_loss: float
    first_loss: float
    seconds: float
    tokens: int
    trained_tokens: int
    rows: int
    peak_memory: int
    expected_memory: int | None = None
    average: Path | None = None
    average_step: int = 0
    average_loss: float | None = None
    stopped_early: bool = False


class NotANumber(GroundupError):
    """The loss is infinite or no number."""


class Trainer:
    """Trains the parameters `trained` of a network on rows; see `groundup.finetune` for the whole.

    adapter  the name that the rows use
    penalty  what is added to the mean loss in training
    keep     writes the adapter as it stands into a new folder
    expects  bytes that the process is forecast to hold at most, to be told beside what it held
    """

    def __init__(
        self,
        network: nn.Module,
        trained: dict[str, nn.Parameter],
        rows: Sequence[Any],
        validation: Sequence[Any],
        settings: Settings,
        *,
        objective: Objective = CAUSAL,
        penalty: Callable[[], Tensor | None] = lambda: None,
        out: Path,
        adapter: str | None,
        keep: KeepAdapter,
        tell: Tell | None = None,
        say: Callable[[str], None] = lambda text: None,
        device: torch.device | str = "cpu",
        expects: int | None = None,
    ):
        self.network, self.trained, self.settings = network, trained, settings
        self.expects = expects
        self.rows, self.validation = rows, validation
        self.out, self.adapter, self.keep, self.device = out, adapter, keep, device
        self.tell, self.say = tell, say
        self.objective, self.penalty = objective, penalty
        for part in network.modules():
            if isinstance(part, Stack):
                part.recompute = settings.checkpointing
        assert settings.steps is not None and settings.learning_rate is not None
        self.steps, self.every = settings.steps, settings.validate_every or settings.steps
        self.optimizer = optimizer_for(settings, trained.values())
        self.average = None if settings.average is None else Average(trained, settings.average)
        self.batches = Batches([len(r.ids) for r in rows], rows_per_batch=settings.batch, seed=settings.seed)
        self.facts: dict[str, Any] = {
            "step": 0,
            "place": [0, 0],
            "best_step": 0,
            "best_loss": None,
            "last_loss": None,
            "first_loss": None,
            "tokens": 0,
            "trained_tokens": 0,
            "rows": 0,
            "seconds": 0.0,
            "stale": 0,
            "average_step": 0,
            "average_loss": None,
        }

    # --- one update ---------------------------------------------------------------------------------------------------

    def update(self, groups: list[list[Any]], rate: float) -> float:
        """One update from the mean loss over all trained tokens of these groups of rows; gives that loss.

        Groups are weighted by their trained tokens, so that accumulating equals one big batch.
        """
        self.network.train()
        count = sum(self.objective.count(r) for group in groups for r in group)
        if isinstance(self.optimizer, Lomo):
            (group,) = groups
            total = count * self.optimizer.step(lambda: self.loss(group) / count, rate)
            self._must_be_number(total)
            return total / count
        total = sum(float(self.gradients(group, count)) for group in groups)
        self._must_be_number(total)
        self.take(rate)
        return total / count

    def gradients(self, group: list[Any], count: int) -> Float[Tensor, ""]:
        """Add the gradients of these rows' share in the mean loss over `count` tokens; gives their summed loss."""
        loss = self.loss(group)
        (loss / count).backward()
        return loss.detach()

    def take(self, rate: float) -> None:
        """The step that the gradients say; none is left."""
        assert not isinstance(self.optimizer, Lomo)
        if self.settings.clip:
            nn.utils.clip_grad_norm_(list(self.trained.values()), self.settings.clip)
        for group_of in self.optimizer.param_groups:
            group_of["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def loss(self, group: list[Any]) -> Float[Tensor, ""]:
        """The summed loss of these rows, with the method's penalty."""
        loss, count = self.objective.loss(self.network, group, adapter=self.adapter, device=self.device)
        penalty = self.penalty()
        return loss if penalty is None else loss + count * penalty

    def _must_be_number(self, total: float) -> None:
        if not math.isfinite(total):
            raise NotANumber(
                f"the loss is {total} at step {self.facts['step'] + 1}: lower the learning rate "
                f"({self.settings.learning_rate:g}), or look for odd rows with `groundup data check`"
            )

    def validate(self) -> float:
        """Mean loss over the trained tokens of the validation rows."""
        self.network.eval()
        return mean_loss(
            self.objective,
            self.network,
            self.validation,
            batch=self.settings.batch,
            adapter=self.adapter,
            device=self.device,
        )

    # --- the run ------------------------------------------------------------------------------------------------------

    def seconds_a_step(self) -> float:
        """How long an update takes here: two forward and backward passes whose gradients are thrown away."""
        groups = self.groups(Place(0, 0))
        self.network.train()
        spent = []
        for _ in range(2):
            group = next(groups)[0]
            start = time.perf_counter()
            for rows in group:
                loss = self.loss(rows)
                if isinstance(self.optimizer, Lomo):
                    self.optimizer.measure(loss)
                else:
                    loss.backward()
            spent.append((time.perf_counter() - start) / sum(len(r.ids) for rows in group for r in rows))
            self.optimizer.zero_grad(set_to_none=True)
        mean = sum(len(r.ids) for r in self.rows) / len(self.rows)
        return min(spent) * mean * self.settings.batch * self.settings.accumulate

    def go(self) -> Run:
        """Train from where the state stands to the end. Ctrl-C finishes the update, saves, and raises
        KeyboardInterrupt."""
        self._resume()
        began, saved = time.monotonic() - self.facts["seconds"], time.monotonic()
        groups = self.groups(Place(*self.facts["place"]))
        settings = self.settings
        with _stoppable() as stop:
            while self.facts["step"] < self.steps and not self.spent:
                group, place = next(groups)
                step = self.facts["step"]
                start = time.perf_counter()
                rate = settings.rate(step)
                loss = self.update(group, rate)
                if self.average is not None:
                    self.average.add(step + 1)
                tokens = sum(len(r.ids) for rows in group for r in rows)
                self.facts["step"], self.facts["place"] = step + 1, list(place)
                self.facts["tokens"] += tokens
                self.facts["trained_tokens"] += sum(self.objective.count(r) for rows in group for r in rows)
                self.facts["rows"] += sum(map(len, group))
                self.facts["first_loss"] = loss if self.facts["first_loss"] is None else self.facts["first_loss"]
                self.facts["seconds"] = time.monotonic() - began
                speed = tokens / (time.perf_counter() - start)
                self._log({"step": step + 1, "loss": loss, "lr": rate, "tokens_per_second": round(speed, 1)})
                self._told(loss, rate, speed)
                last = step + 1 == self.steps
                if last or (step + 1) % self.every == 0:
                    self._validated()
                last = last or self.spent
                if last or stop() or time.monotonic() - saved >= settings.save_every:
                    self.facts["seconds"] = time.monotonic() - began
                    self._save()
                    saved = time.monotonic()
                if stop() and not last:
                    raise KeyboardInterrupt
        return self._finish()

    def groups(self, place: Place) -> Iterator[tuple[list[list[Any]], Place]]:
        """The groups of rows of each update, and the place after them."""
        group: list[list[Any]] = []
        for batch in self.batches.after(place):
            group.append([self.rows[i] for i in batch.rows])
            if len(group) == self.settings.accumulate:
                yield group, batch.next
                group = []

    def largest(self) -> list[Any]:
        """The rows of the first epoch's batch with the most tokens."""
        lengths = self.batches.lengths
        batch = max(self.batches.plan(0), key=lambda rows: int(lengths[list(rows)].sum()))
        return [self.rows[i] for i in batch]

    def _validated(self) -> None:
        self.facts["stale"] += 1
        found = {"validation_loss": self._compared("best")}
        self.facts["last_loss"] = found["validation_loss"]
        if self.average is not None:
            with self.average.in_use():
                found["average_loss"] = self._compared("average")
        self._log({"step": self.facts["step"], **found})
        self._draw()

    def _compared(self, name: str) -> float:
        """The validation loss of the weights as they stand; they are kept under this name where it is the least so far."""
        loss, least = self.validate(), self.facts[f"{name}_loss"]
        if least is None or loss < least:
            self.facts |= {f"{name}_loss": loss, f"{name}_step": self.facts["step"], "stale": 0}
            self.keep(self.out / name)
        return loss

    @property
    def spent(self) -> bool:
        """Whether as many validations as the settings' patience brought nothing better."""
        return self.settings.patience is not None and self.facts["stale"] >= self.settings.patience

    def _save(self) -> None:
        average = None if self.average is None else self.average.held
        found = state.capture(self.trained, self.optimizer, average)
        state.save(self.out, self.facts["step"], state.State(found, dict(self.facts)))

    def _resume(self) -> None:
        found, damaged = state.newest(self.out)
        for line in damaged:
            self.say(line)
        if found is None:
            torch.manual_seed(self.settings.seed)
            atomic_write(self.out / "log.jsonl", "")
            return
        average = None if self.average is None else self.average.held
        state.restore(found.tensors, self.trained, self.optimizer, average)
        self.facts |= found.facts
        lines = (self.out / "log.jsonl").read_text().splitlines()
        kept = [line for line in lines if _step_of(line) <= self.facts["step"]]
        atomic_write(self.out / "log.jsonl", "".join(line + "\n" for line in kept))

    def _finish(self) -> Run:
        self.keep(self.out / "last")
        self._draw()
        f, early = self.facts, self.facts["step"] < self.steps
        if early:
            self.say(
                f"stopped early at step {f['step']} of {self.steps}: {f['stale']} validations in a row brought nothing "
                "better"
            )
        run = Run(
            out=self.out,
            best=self.out / "best",
            last=self.out / "last",
            steps=f["step"],
            best_step=f["best_step"],
            best_loss=f["best_loss"],
            last_loss=f["last_loss"],
            first_loss=f["first_loss"],
            seconds=f["seconds"],
            tokens=f["tokens"],
            trained_tokens=f["trained_tokens"],
            rows=f["rows"],
            peak_memory=peak_memory(),
            expected_memory=self.expects,
            average=None if self.average is None else self.out / "average",
            average_step=f["average_step"],
            average_loss=f["average_loss"],
            stopped_early=early,
        )
        facts = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(run).items()}
        atomic_write(self.out / "done.json", json.dumps(facts, indent=1))
        return run

    def _log(self, line: dict[str, Any]) -> None:
        with (self.out / "log.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")

    def _told(self, loss: float, rate: float, speed: float) -> None:
        if self.tell is not None:
            memory = float(peak_memory())
            self.tell(self.facts["step"], self.steps, loss=loss, lr=rate, tokens_per_second=speed, peak_memory=memory)

    def _draw(self) -> None:
        lines = [json.loads(line) for line in (self.out / "log.jsonl").read_text().splitlines()]
        train = [(e["step"], e["loss"]) for e in lines if "loss" in e]
        valid = [(e["step"], e["validation_loss"]) for e in lines if "validation_loss" in e]
        loss_curve(
            train, self.out / "loss.png", validation=valid, best=self.facts["best_step"], last=self.facts["step"]
        )


def _step_of(line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError):
        return 1 << 60  # half a line, written while it was killed


@contextmanager
def _stoppable() -> Iterator[Callable[[], bool]]:
    """Ctrl-C and a polite kill ask the loop to stop after its update; a second Ctrl-C stops at once."""
    asked = False

    def ask(number: int, frame: object) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    try:
        before = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: whoever runs us there stops us
        before = {}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
