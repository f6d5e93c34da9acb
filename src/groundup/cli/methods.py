"""The flags of the methods of tuning: the fields of their dataclasses, gathered into one group."""

from __future__ import annotations

from dataclasses import fields, make_dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

from cyclopts import Parameter
from docstring_parser import parse_from_object

from groundup.core.errors import UsageError
from groundup.peft.method import Method
from groundup.peft.methods import METHODS

if TYPE_CHECKING:
    Kind = str
else:
    Kind = Literal[(*METHODS, "qlora")]

ALSO = {"qlora": ("lora", "nf4")}
"""Names of a method on a base that is stored in some kind (QLoRA: arXiv 2305.14314)."""


def _gathered() -> list[tuple[str, Any, Any]]:
    """Every setting of every method once: optional, so that a method's own default stands where a flag is left out."""
    kinds: dict[str, list[str]] = {}
    types: dict[str, Any] = {}
    texts: dict[str, str] = {}
    for kind, method in METHODS.items():
        said = {p.arg_name: p.description or "" for p in parse_from_object(method).params}
        hints = get_type_hints(method)
        for each in fields(method):
            kinds.setdefault(each.name, []).append(kind)
            types.setdefault(each.name, hints[each.name])
            texts.setdefault(each.name, said.get(each.name, ""))
    return [
        (name, Annotated[types[name] | None, Parameter(help=f"{texts[name]} ({', '.join(kinds[name])})")], None)
        for name in types
    ]


Flags: Any = Parameter(name="*")(make_dataclass("Flags", _gathered(), frozen=True, kw_only=True))
Flags.__module__ = __name__  # cyclopts does not look into classes of the standard library


def chosen(kind: str, flags: Any) -> Method:
    """The method of this kind with the settings that were given. UsageError for one that belongs to another method."""
    method = METHODS[ALSO.get(kind, (kind,))[0]]
    given = {f.name: getattr(flags, f.name) for f in fields(flags) if getattr(flags, f.name) is not None}
    known = [f.name for f in fields(method)]
    for name in given:
        if name not in known:
            has = ", ".join(f"--{each.replace('_', '-')}" for each in known) or "none"
            raise UsageError(f"--{name.replace('_', '-')} is no setting of --method {kind}, whose settings are {has}")
    return method(**given)
