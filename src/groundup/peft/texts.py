"""Methods as a line of text, for command lines and tables."""

from __future__ import annotations

from groundup.core.spoken import changed, made
from groundup.peft.method import Method
from groundup.peft.methods import METHODS

__all__ = ["changed", "label", "parse"]


def parse(text: str) -> list[Method]:
    """Methods from a text: `lora,ia3,prompt`, or with settings `lora:rank=8,targets=all;ia3;prompt:length=20`.

    UsageError for a method or a setting that is none.
    """
    words = text.split(";") if ";" in text or ":" in text else text.split(",")
    return [made(word.strip(), METHODS, "method") for word in words if word.strip()]


def label(method: Method) -> str:
    """The method with the settings that are not its defaults: "lora rank=16"."""
    return " ".join([method.kind, *(f"{name}={value}" for name, value in changed(method).items())])
