"""The settings of a run, the learning rate that follows from them, and what is learned of rows with labels or choices.

The fields are the flags of `groundup finetune`; the text below each is its help.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Literal, get_args, get_type_hints

from groundup.core.errors import UsageError
from groundup.core.labels import Problem


@dataclass(frozen=True, kw_only=True)
class Aim:
    """What is learned of rows with labels or choices."""

    label: str | None = None
    """The field with a row's label: a head for labels is trained beside the method's numbers. Left out: "label", where
    rows of text have one; "none" learns the text instead."""

    problem: Problem | None = None
    """Whether one label holds (single), several (multi), or it is a number (regression). Left out: as they look."""

    auxiliary: float = 0.0
    """The weight of a loss on the text's own words beside the label's (GPT-1; 0.5 there)."""

    unlikelihood: float = 0.0
    """Rows with choices: the weight of a loss on the wrong ones' words beside the right one's (T-Few; 1 there)."""

    length_normalised: float = 0.0
    """Rows with choices: the weight of a loss on choosing the right one, per token (T-Few; 1 there)."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to train. What the clock or a measurement chooses is turned into plain numbers (`--steps`, `--precision`)
    before the run begins, printed, and kept in run.json."""

    steps: int | None = None
    """Train for so many updates. Without steps, epochs and minutes: one epoch."""

    epochs: float | None = None
    """Train so often over all rows."""

    minutes: float | None = None
    """Train for so long; the schedule fits it."""

    learning_rate: float | None = None
    """The highest learning rate; left out, what the method usually needs."""

    schedule: Literal["cosine", "linear", "inverse-sqrt", "constant"] = "cosine"
    """How the learning rate falls: cosine and linear go to zero, inverse-sqrt with the root of the updates so far."""

    warmup: float = 0.05
    """The share of the updates in which the learning rate rises."""

    label_smoothing: float = 0.0
    """The share of a target that is spread evenly over the vocabulary, in training."""

    optimizer: Literal["adamw", "adafactor", "sgd", "lion", "lomo"] = "adamw"
    """adamw; adafactor and lion keep less; sgd has momentum; lomo steps within the backward pass and keeps nothing."""

    batch: int = 16
    """Rows a forward pass."""

    accumulate: int = 1
    """Collect the gradients of so many batches for one update, weighted by their trained tokens."""

    clip: float = 1.0
    """The longest gradient (2-norm); 0 leaves it as it is."""

    weight_decay: float = 0.0
    """The share, times the learning rate, by which weights shrink at an update (sgd: added to the gradient)."""

    beta1: float | None = None
    """The memory of gradients of adamw and lion, and sgd's momentum; left out, 0.9."""

    beta2: float | None = None
    """adamw's memory of their squares (left out, 0.999), lion's second memory of gradients (0.99)."""

    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format of frozen weights and activations; trained weights stay float32. auto measures what is faster."""

    checkpointing: bool = False
    """Compute activations anew in the backward pass: less memory, more time."""

    validate_every: int | None = None
    """Updates between two validations; left out, a quarter of all."""

    patience: int | None = None
    """Stop after so many validations in a row without a better one."""

    average: int | None = None
    """Also keep a moving average of the weights over about so many updates, validated beside them, as average/."""

    save_every: float = 60.0
    """Seconds between two saves of the whole state."""

    seed: int = 0
    """The same seed and flags give the same bits."""

    def __post_init__(self) -> None:
        if sum(x is not None for x in (self.steps, self.epochs, self.minutes)) > 1:
            raise UsageError("give one of steps, epochs and minutes")
        for name in ("steps", "batch", "accumulate", "validate_every", "patience", "average"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} is {value}: give at least 1")
        for name in ("epochs", "minutes", "learning_rate"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise UsageError(f"{name} is {value:g}: give a number above 0")
        for name in ("schedule", "optimizer"):
            value, known = getattr(self, name), get_args(get_type_hints(Settings)[name])
            if value not in known:
                raise UsageError(f"{name} {value!r}: there are {', '.join(known)}")
        if not 0 <= self.warmup < 1:
            raise UsageError(f"warmup is {self.warmup}: give the share of the steps, from 0 to below 1")
        if self.precision not in ("auto", "float32", "bfloat16"):
            raise UsageError(f"precision {self.precision!r}: there are auto, float32 and bfloat16")
        if not 0 <= self.label_smoothing < 1:
            raise UsageError(f"label_smoothing is {self.label_smoothing:g}: give a share from 0 to below 1")
        for name in ("beta1", "beta2"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise UsageError(f"{name} is {value:g}: give a number from 0 to below 1")
        if self.clip < 0 or self.weight_decay < 0:
            raise UsageError("clip and weight_decay cannot be negative")

    @staticmethod
    def named(given: dict[str, object]) -> Settings:
        """Settings from keyword arguments. UsageError for a name that is none."""
        known = [f.name for f in fields(Settings)]
        unknown = sorted(set(given) - set(known))
        if unknown:
            raise UsageError(f"no such setting: {', '.join(unknown)}; there are {', '.join(known)}")
        return Settings(**given)  # type: ignore[arg-type]

    def flags(self) -> str:
        """The settings as flags of `groundup finetune`: with them, a run repeats to the bit."""
        said = [
            f"--{f.name.replace('_', '-')} {getattr(self, f.name)}"
            for f in fields(self)
            if f.name != "save_every" and not isinstance(f.default, bool) and getattr(self, f.name) is not None
        ]
        return " ".join(said) + (" --checkpointing" if self.checkpointing else "")

    def rate(self, step: int) -> float:
        """The learning rate of update `step` (the first is 0).

        inverse-sqrt is the first Transformer's (arXiv 1706.03762, eq. 3), whose learning_rate is
        (width · updates of warm-up) ** -0.5.
        """
        assert self.steps is not None and self.learning_rate is not None
        warm = math.ceil(self.warmup * self.steps)
        if step < warm:
            return self.learning_rate * (step + 1) / warm
        if self.schedule == "inverse-sqrt":
            return self.learning_rate * math.sqrt(max(1, warm) / (step + 1))
        share = (step - warm) / max(1, self.steps - warm)
        falling = {"cosine": 0.5 * (1 + math.cos(math.pi * share)), "linear": 1 - share, "constant": 1.0}
        return self.learning_rate * falling[self.schedule]
