"""Settings as a line of text, for command lines, files and tables: `lora:rank=8,targets=all`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any, TypeVar, get_type_hints

from pydantic import TypeAdapter, ValidationError

from groundup.core.errors import UsageError

T = TypeVar("T")


def made(word: str, known: Mapping[str, type[T]], what: str) -> T:
    """One of several dataclasses by its name, with settings: `prompt`, or `prompt:length=20`.

    what: what it is called where it is none. UsageError for a name or a setting that is none, or a value that does not fit.
    """
    kind, _, rest = word.partition(":")
    kind = kind.strip()
    if kind not in known:
        more = f"; divide {what}s that have settings by ;" if "," in kind else ""
        raise UsageError(f"there is no {what} {kind!r}; there are {', '.join(known)}{more}")
    of: Any = known[kind]
    given, hints, names = dict[str, Any](), get_type_hints(of), [f.name for f in fields(of)]
    for each in re.split(r",(?=\s*[\w-]+\s*=)", rest) if rest.strip() else []:  # a comma may stand in a text
        name, equals, value = each.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or name not in names:
            some = f"its settings are {', '.join(names)}" if names else "it has none"
            raise UsageError(f"{kind}: {each.strip()!r} is no setting NAME=VALUE; {some}")
        try:
            given[name] = TypeAdapter(hints[name]).validate_strings(value.strip())
        except ValidationError as error:
            raise UsageError(f"{kind}: {name} = {value.strip()!r}: {error.errors()[0]['msg']}") from None
    return known[kind](**given)


def changed(settings: Any) -> dict[str, Any]:
    """The settings of a dataclass that are not its defaults."""
    usual = asdict(type(settings)())
    return {name: value for name, value in asdict(settings).items() if value != usual[name]}


def said(name: str, settings: Any) -> str:
    """The line that `made` reads: the name, and the settings that are not defaults."""
    given = ",".join(
        f"{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in changed(settings).items()
    )
    return f"{name}:{given}" if given else name
