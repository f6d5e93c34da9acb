"""What takes the steps: the optimizers of the field, by name, with what each reads of a run's settings.

    adamw      Loshchilov & Hutter, arXiv 1711.05101      two moments a weight
    adafactor  Shazeer & Stern, arXiv 1804.04235          a row and a column of moments a matrix; steps in shares of a
                                                          weight's own size, so what begins at 0 begins slowly
    sgd        with momentum                              one moment; no step is scaled, so no rate is usual
    lion       Chen et al., arXiv 2302.06675              one moment; every step of the same size (lion-pytorch)
    lomo       Lv et al., arXiv 2306.09782                nothing, not even gradients (`lomo`)

All but LOMO are torch's or a library's own. Their states are plain tensors, which `state` writes and puts back.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module

import torch
from torch import nn

from groundup.core.errors import UsageError
from groundup.training.lomo import Lomo
from groundup.training.settings import Settings

LION_SLOWER = 5  # arXiv 2302.06675, section 5: rates 3 to 10 times smaller than AdamW's


@dataclass(frozen=True)
class Reads:
    """Which of the settings an optimizer reads, and what its memory usually is.

    beta1, beta2  None: it has no such memory
    """

    beta1: float | None = None
    beta2: float | None = None
    weight_decay: bool = True
    accumulate: bool = True


READS = {
    "adamw": Reads(0.9, 0.999),
    "adafactor": Reads(),
    "sgd": Reads(0.9),
    "lion": Reads(0.9, 0.99),
    "lomo": Reads(weight_decay=False, accumulate=False),
}


def usual_rate(optimizer: str, rate: float) -> float:
    """The highest learning rate that an optimizer usually needs where AdamW needs `rate`. UsageError for sgd."""
    if optimizer == "sgd":
        raise UsageError(
            "sgd has no usual learning rate: give --learning-rate; --find-learning-rate suggests one for this model "
            "and these rows"
        )
    if optimizer == "adafactor":
        return 1e-2  # a share of each weight's size: arXiv 1804.04235, section 8
    return rate / LION_SLOWER if optimizer == "lion" else rate


def refuse_unread(settings: Settings) -> None:
    """UsageError for a setting that the optimizer would not read."""
    name, reads = settings.optimizer, READS[settings.optimizer]
    for flag, given, read in (
        ("beta1", settings.beta1 is not None, reads.beta1 is not None),
        ("beta2", settings.beta2 is not None, reads.beta2 is not None),
        ("weight-decay", settings.weight_decay > 0, reads.weight_decay),
        ("accumulate", settings.accumulate > 1, reads.accumulate),
    ):
        if given and not read:
            why = "steps within each backward pass: it" if name == "lomo" else "has no such memory: it"
            raise UsageError(f"{name} {why} takes no --{flag}; leave it out")


def optimizer_for(settings: Settings, trained: Iterable[nn.Parameter]) -> torch.optim.Optimizer | Lomo:
    """The optimizer of these settings over what is trained. UsageError for a setting that it would not read."""
    refuse_unread(settings)
    assert settings.learning_rate is not None
    name, weights, rate, decay = settings.optimizer, list(trained), settings.learning_rate, settings.weight_decay
    reads = READS[name]
    beta1 = reads.beta1 if settings.beta1 is None else settings.beta1
    beta2 = reads.beta2 if settings.beta2 is None else settings.beta2
    if name == "lomo":
        return Lomo(weights, clip=settings.clip)
    if name == "adafactor":
        return torch.optim.Adafactor(weights, lr=rate, weight_decay=decay)
    assert beta1 is not None
    if name == "sgd":
        return torch.optim.SGD(weights, lr=rate, momentum=beta1, weight_decay=decay, fused=True)
    assert beta2 is not None
    if name == "lion":
        return _lion()(weights, lr=rate, betas=(beta1, beta2), weight_decay=decay)
    return torch.optim.AdamW(weights, lr=rate, betas=(beta1, beta2), weight_decay=decay, fused=True)


def _lion() -> Callable[..., torch.optim.Optimizer]:
    try:
        found: Callable[..., torch.optim.Optimizer] = import_module("lion_pytorch").Lion
    except ImportError:
        raise UsageError(
            f"the optimizer lion comes from lion-pytorch, which is not installed: {sys.executable} -m pip install "
            "lion-pytorch"
        ) from None
    return found
