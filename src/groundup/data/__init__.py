"""Rows of data. Names are resolved when first asked for, so that importing this costs nothing."""

from importlib import import_module
from typing import Any

_MODULES = ("batches", "check", "encode", "formats", "kinds", "news", "problems", "rows")
_NAMES = {"read": "rows", "split": "rows", "Dataset": "rows", "Batches": "batches", "starters": "listing"}
__all__ = [*_MODULES, *_NAMES]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    if name in _NAMES:
        return getattr(import_module(f"{__name__}.{_NAMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
