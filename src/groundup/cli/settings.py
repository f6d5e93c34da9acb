"""The settings of a run as flags that may all be left out, for verbs that read them from a file too."""

from __future__ import annotations

from dataclasses import fields, make_dataclass
from typing import Annotated, Any, get_type_hints

from cyclopts import Parameter
from docstring_parser import parse_from_object

from groundup.training.settings import Settings


def _optional() -> Any:
    said = {p.arg_name: p.description or "" for p in parse_from_object(Settings).params}
    hints = get_type_hints(Settings)
    made = [
        (f.name, Annotated[hints[f.name] | None, Parameter(help=said.get(f.name, ""))], None) for f in fields(Settings)
    ]
    return make_dataclass("Changed", made, frozen=True, kw_only=True)


Changed: Any = Parameter(name="*")(_optional())
Changed.__module__ = __name__  # cyclopts does not look into classes of the standard library
