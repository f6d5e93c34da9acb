"""Methods as a line of text, for command lines and tables."""

from __future__ import annotations

import re
from dataclasses import asdict, fields
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from groundup.core.errors import UsageError
from groundup.peft.method import Method
from groundup.peft.methods import METHODS


def parse(text: str) -> list[Method]:
    """Methods from a text: `lora,ia3,prompt`, or with settings `lora:rank=8,targets=all;ia3;prompt:length=20`.

    UsageError for a method or a setting that is none.
    """
    words = text.split(";") if ";" in text or ":" in text else text.split(",")
    return [_method(word.strip()) for word in words if word.strip()]


def _method(word: str) -> Method:
    kind, _, rest = word.partition(":")
    kind = kind.strip()
    if kind not in METHODS:
        more = "; divide methods that have settings by ;" if "," in kind else ""
        raise UsageError(f"there is no method {kind!r}; there are {', '.join(METHODS)}{more}")
    method, given = METHODS[kind], dict[str, Any]()
    hints, known = get_type_hints(method), [f.name for f in fields(method)]
    for each in re.split(r",(?=\s*[\w-]+\s*=)", rest) if rest.strip() else []:  # a comma may stand in a text
        name, equals, value = each.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or name not in known:
            raise UsageError(f"{kind}: {each.strip()!r} is no setting NAME=VALUE; its settings are {', '.join(known)}")
        try:
            given[name] = TypeAdapter(hints[name]).validate_strings(value.strip())
        except ValidationError as error:
            raise UsageError(f"{kind}: {name} = {value.strip()!r}: {error.errors()[0]['msg']}") from None
    return method(**given)


def label(method: Method) -> str:
    """The method with the settings that are not its defaults: "lora rank=16"."""
    return " ".join([method.kind, *(f"{name}={value}" for name, value in changed(method).items())])


def changed(method: Method) -> dict[str, Any]:
    """The settings that are not the method's defaults."""
    usual = asdict(type(method)())
    return {name: value for name, value in asdict(method).items() if value != usual[name]}
