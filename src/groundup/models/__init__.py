"""The families, one file each; a family's file is read when it is first asked for."""

from importlib import import_module
from types import ModuleType

FAMILIES = (
    "bert", "bloom", "distilbert", "gemma", "gemma2", "gpt2", "gpt_neox", "hyena", "llama", "mistral", "mixtral", "mpt", "openai-gpt", "qwen2",
    "qwen3", "retnet", "roberta", "switch_transformers", "t5", "transformer",
)  # fmt: skip


def __getattr__(name: str) -> ModuleType:
    file = name.replace("-", "_")
    if file in (family.replace("-", "_") for family in FAMILIES):
        return import_module(f"{__name__}.{file}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*FAMILIES, "FAMILIES"]
