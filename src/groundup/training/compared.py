"""What a comparison of methods found: a table, a picture, and which method to take, with the reason.

A score's interval over seeds is Student's, of the mean (Student 1908): with few seeds it is wide, and with one there is
none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from groundup.core import plots
from groundup.core.files import size
from groundup.evaluation.metrics import Score

UNTOUCHED = "untouched"  # the name of the model as it is
LOWER = {"validation loss", "perplexity", "squared error"}  # scores of which less is better

# The 0.975 quantile of Student's distribution with 1, 2 ... 29 degrees of freedom.
_STUDENT = (
    12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281, 2.2010, 2.1788, 2.1604, 2.1448,
    2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860, 2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484,
    2.0452,
)  # fmt: skip
MOST_SEEDS = len(_STUDENT) + 1


@dataclass(frozen=True)
class Trial:
    """One line of the table: a method over its seeds, or the untouched model (a constant, where that knows no labels).

    score    what `scores` are; one a seed that is finished, as are `losses` (of validation, the best step's), `seconds`
             of training and `memory` (the most that a run's process held, in bytes)
    others   further scores of the test, by name, one a seed
    trained  trained numbers; size: bytes of what is kept (the weights of best/)
    why      why a seed is missing
    bases    the fingerprint of the model that each run began from
    """

    name: str
    score: str
    scores: tuple[float, ...] = ()
    losses: tuple[float, ...] = ()
    seconds: tuple[float, ...] = ()
    memory: tuple[int, ...] = ()
    trained: int | None = None
    size: int | None = None
    why: str | None = None
    bases: tuple[str, ...] = ()
    others: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    @property
    def mean(self) -> Score:
        """The mean score with its 95 % interval over seeds."""
        return over_seeds(self.score, self.scores)

    @property
    def spread(self) -> float | None:
        """The standard deviation over seeds; None of fewer than two."""
        return stdev(self.scores) if len(self.scores) > 1 else None


def over_seeds(name: str, scores: Sequence[float]) -> Score:
    """The mean of one score a seed, with Student's 95 % interval; of one seed the interval is the score alone."""
    middle = mean(scores)
    half = 0.0
    if len(scores) > 1:
        half = _STUDENT[len(scores) - 2] * stdev(scores) / math.sqrt(len(scores))
    return Score(name, middle, middle - half, middle + half, len(scores), tuple(scores))


@dataclass(frozen=True)
class Compared:
    """Methods side by side; the first of `trials` is the untouched model."""

    score: str
    trials: tuple[Trial, ...]
    seeds: int

    @property
    def untouched(self) -> Trial:
        return self.trials[0]

    @property
    def whole(self) -> list[Trial]:
        """The methods of which every seed is finished."""
        return [trial for trial in self.trials[1:] if len(trial.scores) == self.seeds]

    def _good(self, value: float) -> float:
        """The score so turned that more is better."""
        return -value if self.score in LOWER else value

    def _reaches(self, trial: Trial, best: Trial) -> bool:
        """Whether a method's mean is within one standard error of the best one's (Breiman et al. 1984, 3.4.3)."""
        error = (best.spread or 0.0) / math.sqrt(len(best.scores))
        return self._good(trial.mean.value) >= self._good(best.mean.value) - error

    def choice(self) -> tuple[Trial | None, Trial | None]:
        """(the method to take, the method with the best score); the untouched model where no method is better, None
        where no method is finished.

        Taken is the one with the fewest trained numbers (then seconds) among those that are better than the untouched
        model and whose mean is within one standard error of that of the best one.
        """
        if not self.whole:
            return None, None
        best = max(self.whole, key=lambda t: (self._good(t.mean.value), -(t.trained or 0), -mean(t.seconds)))
        floor = self._good(self.untouched.mean.value)
        if self._good(best.mean.value) <= floor:
            return self.untouched, best
        near = [t for t in self.whole if self._reaches(t, best) and self._good(t.mean.value) > floor]
        return min(near, key=lambda t: (t.trained or 0, mean(t.seconds))), best

    def recommendation(self) -> str:
        """Which method to take, and why, in a sentence with the numbers."""
        taken, best = self.choice()
        if taken is None or best is None:
            return "No method was trained to its end, so there is nothing to recommend."
        base = self._said(self.untouched)
        if taken is self.untouched:
            keep = (
                "Keep the untouched model: its" if taken.name == UNTOUCHED else f"Take none of them: {taken.name}, an"
            )
            return f"{keep} {base} is not worse than that of the best method, {best.name} with {self._cell(best)}."
        over = f"over {self.seeds} seeds (95 % intervals)" if self.seeds > 1 else "with one seed"
        cost = f"{taken.trained:,} trained numbers, {_seconds(taken)} a run"
        if len(self.whole) == 1:
            text = f"Take {taken.name}, the only method that was trained to its end: {self._said(taken)} {over}, {base} {self.untouched.name}; {cost}."
        elif taken is not best:
            text = (
                f"Take {taken.name}: its {self._said(taken)} is within one standard error of that of the best, {best.name} with "
                f"{best.mean}, {over}, and it is cheaper: {cost}, against {best.trained:,} and {_seconds(best)}."
            )
        else:
            cheaper = any((t.trained or 0) < (taken.trained or 0) for t in self.whole)
            why = "and no cheaper method comes up to it" if cheaper else "and no method trains fewer numbers"
            text = f"Take {taken.name}: its {self._said(taken)} is the best {over}, {why}; {cost}."
        if self.seeds == 1:
            text += " The spread over seeds is unknown, so a small lead may be chance: ask for --seeds 3."
        return text

    def _said(self, trial: Trial) -> str:
        return f"{self.score} of {self._cell(trial)}"

    def _cell(self, trial: Trial) -> str:
        found = trial.mean
        return str(found) if found.n > 1 else str(found).split(" [")[0]

    def cells(self) -> list[list[str]]:
        """The table as text: a header, then a line a method. What is not known is a dash."""
        better = "less is better" if self.score in LOWER else "more is better"
        others = list(dict.fromkeys(name for trial in self.trials for name in trial.others))
        lines = [["", f"{self.score} ({better})", "spread", *others, "trained", "seconds", "peak memory", "file"]]
        for trial in self.trials:
            spread = trial.spread
            lines.append(
                [
                    trial.name,
                    self._cell(trial) if trial.scores else "-",
                    "-" if spread is None else f"{spread:.3g}",
                    *(f"{mean(trial.others[name]):.3f}" if name in trial.others else "-" for name in others),
                    "-" if trial.trained is None else f"{trial.trained:,}",
                    f"{mean(trial.seconds):.1f}" if trial.seconds else "-",
                    size(mean(trial.memory)) if trial.memory else "-",
                    "-" if trial.size is None else size(trial.size),
                ]
            )
        return lines

    def notes(self) -> list[str]:
        """Why lines are not whole, and what the brackets mean."""
        lines = []
        for trial in self.trials[1:]:
            if len(trial.scores) < self.seeds:
                done = f" ({len(trial.scores)} of {self.seeds} seeds are finished)" if trial.scores else ""
                lines.append(f"{trial.name} failed: {trial.why}{done}")
        if self.seeds > 1:
            lines.append(
                f"[low, high]: 95 % interval of the mean over {self.seeds} seeds; spread: standard deviation over seeds"
            )
        return lines

    def text(self) -> str:
        """The table, its notes and the recommendation as plain text."""
        lines = self.cells()
        widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
        shown = [
            "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))])
            for line in lines
        ]
        return "\n".join([*(line.rstrip() for line in shown), *self.notes(), "", self.recommendation()])

    def to_dict(self) -> dict[str, Any]:
        """Plain data for results.json: every number of every seed, and what follows from them."""
        taken, best = self.choice()
        return {
            "score": self.score,
            "seeds": self.seeds,
            "trials": [{**asdict(trial), "mean": _interval(trial), "spread": trial.spread} for trial in self.trials],
            "best": None if best is None else best.name,
            "take": None if taken is None else taken.name,
            "recommendation": self.recommendation(),
        }

    def png(self, path: str | Path) -> None:
        """Draw a small picture for each column, one bar a method, the one to take in colour."""
        taken, _ = self.choice()
        better = "less is better" if self.score in LOWER else "more is better"
        lines = [trial for trial in self.trials if trial.scores]
        plots.panels(
            [trial.name for trial in lines],
            {
                f"{self.score} ({better})": ([(t.mean.value, t.mean.low, t.mean.high) for t in lines], "{:.3f}".format),
                "trained numbers": ([_range([t.trained] if t.trained else []) for t in lines], "{:,.0f}".format),
                "seconds": ([_range(t.seconds) for t in lines], "{:.1f}".format),
                "peak memory": ([_range(t.memory) for t in lines], size),
                "file size": ([_range([t.size] if t.size else []) for t in lines], size),
            },
            path,
            title=f"Methods of tuning, {self.seeds} seed{'s' if self.seeds > 1 else ''}",
            marked=taken.name if taken else None,
        )


def _interval(trial: Trial) -> dict[str, float] | None:
    return {"value": trial.mean.value, "low": trial.mean.low, "high": trial.mean.high} if trial.scores else None


def _range(values: Sequence[float]) -> tuple[float, float, float] | None:
    """The mean with the least and the greatest."""
    return (mean(values), min(values), max(values)) if values else None


def _seconds(trial: Trial) -> str:
    return f"{mean(trial.seconds):.1f} s"
