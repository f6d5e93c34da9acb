"""The settings of a run, and the learning rate that follows from them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from groundup.core.errors import UsageError


@dataclass(frozen=True)
class Settings:
    """How to train. All are plain numbers: what the clock or a measurement chose has been turned into them.

    steps           updates of the weights
    learning_rate   the highest, reached after `warmup` (a share of the steps)
    schedule        how it falls: cosine, linear (both to zero) or constant
    batch           rows a forward pass; `accumulate` of them make one update, weighted by their trained tokens
    clip            longest gradient (2-norm); 0 leaves it
    precision       number format of frozen weights and activations; trained weights stay float32
    validate_every  steps between two validations
    save_every      seconds between two saves of the whole state
    """

    steps: int
    learning_rate: float = 1e-3
    schedule: str = "cosine"
    warmup: float = 0.05
    batch: int = 16
    accumulate: int = 1
    clip: float = 1.0
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    precision: str = "float32"
    checkpointing: bool = False
    seed: int = 0
    validate_every: int = 50
    save_every: float = 60.0

    def __post_init__(self) -> None:
        whole = {"steps": self.steps, "batch": self.batch, "accumulate": self.accumulate}
        for name, value in {**whole, "validate_every": self.validate_every}.items():
            if value < 1:
                raise UsageError(f"{name} is {value}: give at least 1")
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            raise UsageError(f"learning_rate is {self.learning_rate}: give a number above 0, such as 1e-3")
        if self.schedule not in ("cosine", "linear", "constant"):
            raise UsageError(f"schedule {self.schedule!r}: there are cosine, linear and constant")
        if not 0 <= self.warmup < 1:
            raise UsageError(f"warmup is {self.warmup}: give the share of the steps, from 0 to below 1")
        if self.precision not in ("float32", "bfloat16"):
            raise UsageError(f"precision {self.precision!r}: there are float32 and bfloat16")
        if self.clip < 0 or self.weight_decay < 0:
            raise UsageError("clip and weight_decay cannot be negative")

    def flags(self) -> str:
        """The settings as flags of `groundup finetune`: with them, a run repeats to the bit."""
        names = [
            "steps",
            "learning_rate",
            "schedule",
            "warmup",
            "batch",
            "accumulate",
            "clip",
            "weight_decay",
            "precision",
            "seed",
        ]
        plain = " ".join(f"--{name.replace('_', '-')} {getattr(self, name)}" for name in names)
        return plain + (" --checkpointing" if self.checkpointing else "")

    def rate(self, step: int) -> float:
        """The learning rate of update `step` (the first is 0)."""
        warm = math.ceil(self.warmup * self.steps)
        if step < warm:
            return self.learning_rate * (step + 1) / warm
        share = (step - warm) / max(1, self.steps - warm)
        falling = {"cosine": 0.5 * (1 + math.cos(math.pi * share)), "linear": 1 - share, "constant": 1.0}
        return self.learning_rate * falling[self.schedule]
