"""From seconds to energy, carbon and money; from numbers and tokens to operations."""

from __future__ import annotations

from dataclasses import dataclass

from groundup.core.errors import UsageError


@dataclass(frozen=True)
class Bill:
    """What a job takes: kWh, grams of CO2, and money in whatever the price was given in (None: no price)."""

    energy: float
    carbon: float
    price: float | None


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What an hour and a kilowatt-hour take."""

    watts: float = 65.0
    """What the machine draws while it computes; 65 is usual for a desktop's processor."""

    grams_per_kwh: float = 475.0
    """Carbon dioxide of a kilowatt-hour; 475 is the world's mean (IEA, 2019), 57 France's."""

    price_per_hour: float | None = None
    """What an hour of the machine costs; left out, no price is said."""

    def __post_init__(self) -> None:
        for name in ("watts", "grams_per_kwh", "price_per_hour"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise UsageError(f"{name} is {value:g}: give a number of 0 or more")

    def bill(self, seconds: float) -> Bill:
        """energy = power · time, carbon = energy · intensity (Luccioni et al., arXiv 2211.02001, section 4.2: dynamic)."""
        hours = seconds / 3600
        energy = hours * self.watts / 1000
        price = None if self.price_per_hour is None else hours * self.price_per_hour
        return Bill(energy, energy * self.grams_per_kwh, price)


def training_operations(numbers: float, tokens: float) -> float:
    """6 · N · D: the floating-point operations of training N numbers on D tokens, two forward and four backward for each
    (Kaplan et al., arXiv 2001.08361, section 2.1; attention's own are left out)."""
    return 6 * numbers * tokens


def hours(operations: float, peak: float, utilization: float) -> float:
    """How long a machine of `peak` operations a second takes, of which this share (MFU) is reached."""
    if not 0 < utilization <= 1 or peak <= 0:
        raise UsageError(f"a peak of {peak:g} and a utilization of {utilization:g} make no time")
    return operations / (peak * utilization) / 3600
