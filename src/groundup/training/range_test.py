"""The learning-rate range test: one short run whose rate climbs from far too low to far too high.

    loss ────────╲            ╱     L. N. Smith, arXiv 1506.01186, section 3.3; rates climb by a factor an update
                  ╲__      __╱
                   ↑  ╲__╱   ↑
             steepest   least  lost: all that was won is lost again

The suggestion is the rate where the loss falls the steepest, and at most a tenth of the one at which it is lost again.
Rates and losses alone are looked at: what was trained on the way is thrown away, and every weight comes back to the bit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from groundup.core import machine
from groundup.core.errors import GroundupError, UsageError
from groundup.core.labels import Problem
from groundup.core.plots import rate_curve
from groundup.data.batches import Place
from groundup.model import Model
from groundup.nn.heads import head_of
from groundup.nn.surgery import in_format, with_copies
from groundup.training.average import unchanged
from groundup.training.finetune import Say, encoded_rows, what_is_learned
from groundup.training.loop import NotANumber, Trainer
from groundup.training.objective import Objective
from groundup.training.settings import Aim, Settings

STEPS = 100
LOWEST, HIGHEST = 1e-7, 10.0
FEWEST = 20  # updates below which no slope can be told from chance
LEAST_WON = 0.01  # of the loss at the start: what falls by less has not begun to fall
RECENT = 5  # losses whose mean says that the run has diverged: twice that of as many at the start


@dataclass(frozen=True)
class Rates:
    """What a range test found.

    suggestion       the learning rate to take
    steepest, least  where the smoothed loss falls the fastest, and where it is the lowest
    lost             where it is back at what it was at the start; None where it came to that nowhere
    rates, losses, smooth   of each update
    """

    suggestion: float
    steepest: float
    least: float
    lost: float | None
    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smooth: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    def png(self, path: str | Path) -> None:
        """The loss by the rate, and the suggestion."""
        rate_curve(self.rates, self.losses, self.smooth, path, suggestion=self.suggestion, lost=self.lost)


def sweep(
    update: Callable[[float], float],
    *,
    steps: int = STEPS,
    lowest: float = LOWEST,
    highest: float = HIGHEST,
    on_update: Callable[[int, float, float], None] = lambda step, rate, loss: None,
) -> Rates:
    """Call `update(rate)` -> loss with rates from the lowest to the highest, until it diverges; look at what it gave.

    Raises UsageError for a range that is none, GroundupError where the loss fell at no rate.
    """
    if not (0 < lowest < highest and math.isfinite(highest)):
        raise UsageError(f"rates from {lowest:g} to {highest:g}: give two above 0, the lower first")
    if steps < FEWEST:
        raise UsageError(f"a range test of {steps} updates sees no slope: give at least {FEWEST}")
    rates, losses = list[float](), list[float]()
    for step in range(steps):
        rate = lowest * (highest / lowest) ** (step / (steps - 1))
        try:
            loss = update(rate)
        except NotANumber:
            loss = math.inf
        if not math.isfinite(loss):
            break
        rates.append(rate)
        losses.append(loss)
        on_update(step + 1, rate, loss)
        if len(losses) > RECENT and np.mean(losses[-RECENT:]) > 2 * np.mean(losses[:RECENT]):
            break
    return judged(rates, losses, diverged=len(rates) < steps)


def judged(rates: Sequence[float], losses: Sequence[float], *, diverged: bool) -> Rates:
    """The rates that these losses speak for; `diverged`: the run broke off after the last. Raises GroundupError."""
    if len(losses) < RECENT:
        raise GroundupError(f"the loss is no number after {len(losses)} updates: begin with lower rates")
    start = float(np.mean(losses[: max(RECENT, len(losses) // 10)]))
    held = np.minimum(losses, 2 * start)  # or the last and largest would hide what stands before them
    smooth = _smoothed(held)
    low = int(np.argmin(smooth))
    won = start - float(smooth[low])
    noise = float(np.std((held - smooth)[: low + 1])) / math.sqrt(_reach(len(losses)))
    if low < 2 or won <= max(2 * noise, LEAST_WON * start):
        raise GroundupError(
            f"the loss fell at no rate from {rates[0]:.1e} to {rates[-1]:.1e} (from {start:.3f} to {smooth[low]:.3f} at "
            "best): is there something to learn, and are there enough updates?"
        )
    slopes = np.gradient(smooth, np.log(rates))[: low + 1]
    steepest = float(rates[int(np.argmin(slopes))])
    back = [i for i in range(low, len(smooth)) if smooth[i] >= start]
    lost = float(rates[back[0]]) if back else (float(rates[-1]) if diverged else None)
    suggestion = steepest if lost is None else min(steepest, lost / 10)
    return Rates(suggestion, steepest, float(rates[low]), lost, tuple(rates), tuple(losses), tuple(smooth.tolist()))


def _reach(count: int) -> int:
    return max(2, count // 20)


def _smoothed(losses: Any) -> Any:
    """A weighted mean of each loss and its neighbours on both sides (a Hann window), so that it does not lag."""
    window = np.hanning(2 * _reach(len(losses)) + 3)[1:-1]
    total, weight = np.convolve(losses, window, "full"), np.convolve(np.ones(len(losses)), window, "full")
    edge = len(window) // 2
    return (total / weight)[edge : edge + len(losses)]


def find_learning_rate(
    model: Model,
    data: str | Path | Sequence[dict[str, Any]],
    *,
    validation: str | Path | None = None,
    max_tokens: int | None = None,
    objective: Objective | None = None,
    label: str | None = None,
    problem: Problem | None = None,
    auxiliary: float = 0.0,
    unlikelihood: float = 0.0,
    length_normalised: float = 0.0,
    lowest: float = LOWEST,
    highest: float = HIGHEST,
    on_progress: Callable[..., None] | None = None,
    say: Say = lambda text: None,
    **settings: Any,
) -> Rates:
    """Which learning rate suits the method in use, these rows and these settings, by a range test; `sweep` says how.

    As `finetune`, but `steps` counts the updates of the test (100 unless said), and no weight is changed: not the
    model's, and not the copies that are trained meanwhile.
    Raises UsageError where nothing would be trained, GroundupError where the loss falls at no rate.
    """
    if model.adapter is None:
        raise UsageError(
            "find_learning_rate: nothing would be trained; adapt the model first, e.g. adapt(model, LoRA())"
        )
    given = Settings.named(settings)
    if given.epochs is not None or given.minutes is not None:
        raise UsageError("a range test counts in updates: give steps, not epochs or minutes")
    steps = given.steps or STEPS
    aim = Aim(label=label, problem=problem, auxiliary=auxiliary, unlikelihood=unlikelihood,
              length_normalised=length_normalised)  # fmt: skip
    model, found, read, objective = what_is_learned(model, data, objective, aim, given, say)
    assert model.adapter is not None
    train, valid = encoded_rows(model, found, read, validation, max_tokens, objective, given.seed, say)
    precision = given.precision
    if precision == "auto":
        precision, why = machine.choose("train")  # type: ignore[assignment]
        say(why)
    method, name = model.method, model.adapter
    exact, trained = with_copies(model.network, method.trained(model.network, name) | head_of(model.network))
    trainer = Trainer(
        in_format(exact, machine.FORMATS[precision]), trained, train, valid,
        replace(given, steps=steps, precision=precision, learning_rate=lowest, average=None),
        objective=objective, penalty=lambda: method.penalty(exact, name), out=Path(), adapter=name, keep=lambda path: None, device=model.device,
    )  # fmt: skip
    torch.manual_seed(given.seed)
    groups = trainer.groups(Place(0, 0))
    began = time.perf_counter()

    def update(rate: float) -> float:
        return trainer.update(next(groups)[0], rate)

    def tell(step: int, rate: float, loss: float) -> None:
        if on_progress is not None:
            on_progress(step, steps, loss=loss, lr=rate, peak_memory=float(machine.peak_memory()))

    say(f"{steps} updates at rates from {lowest:g} to {highest:g}; nothing of them is kept")
    with unchanged(trained):
        rates = sweep(update, steps=steps, lowest=lowest, highest=highest, on_update=tell)
    say(f"{len(rates.rates)} updates in {time.perf_counter() - began:.0f} s")
    return rates
