"""The families, one file each; a family's file is read when it is first asked for."""

from importlib import import_module
from types import ModuleType

FAMILIES = ("bert", "bloom", "gpt2", "llama", "t5")


def __getattr__(name: str) -> ModuleType:
    if name in FAMILIES:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*FAMILIES, "FAMILIES"]
