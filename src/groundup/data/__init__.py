"""Rows of data. Names are resolved when first asked for, so that importing this costs nothing."""

from importlib import import_module
from typing import Any

_MODULES = (
    "arithmetic",
    "batches",
    "c4",
    "check",
    "encode",
    "formats",
    "kinds",
    "leakage",
    "news",
    "parts",
    "problems",
    "rows",
    "scores",
)
_NAMES = {
    "read": "rows",
    "split": "rows",
    "Dataset": "rows",
    "Stream": "rows",
    "Batches": "batches",
    "starters": "listing",
    "stats": "summary",
    "dedupe": "duplicates",
    "C4": "c4",
    "by_rules": "filters",
    "by_score": "filters",
    "scorer": "scores",
    "Mixture": "mixture",
    "mix": "mixture",
    "divide_file": "parts",
    "decontaminate": "leakage",
    "shots": "incontext",
}
__all__ = [*_MODULES, *_NAMES]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    if name in _NAMES:
        return getattr(import_module(f"{__name__}.{_NAMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
