"""What the command line says: results on standard output, everything else on standard error, nothing that can harm a
terminal. With --json the result is one JSON object.
"""

from __future__ import annotations

import json
import sys
import unicodedata
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType

# Characters that turn the reading direction around, so that a line says something else than it looks like.
_TURNS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def safe(text: str) -> str:
    """The text with control and direction characters written as escapes; line breaks and tabs stay."""
    if text.isascii() and text.replace("\n", "").replace("\t", "").isprintable():
        return text
    return "".join(_escaped(char) if _harmful(char) else char for char in text)


def _harmful(char: str) -> bool:
    return char in _TURNS or (unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") and char not in "\n\t")


def _escaped(char: str) -> str:
    return f"\\x{ord(char):02x}" if ord(char) < 256 else f"\\u{ord(char):04x}"


def note(text: str) -> None:
    """A line on standard error."""
    print(safe(text), file=sys.stderr, flush=True)


def write(text: str) -> None:
    """A piece of an answer on standard output, at once and without a line break."""
    print(safe(text), end="", flush=True)


def result(data: Mapping[str, Any], text: RenderableType, *, as_json: bool) -> None:
    """The verb's result: `data` as one JSON object, or `text` (plain, or anything that rich can draw)."""
    if as_json:
        print(json.dumps(data, ensure_ascii=False, default=str), flush=True)
    elif isinstance(text, str):
        print(safe(text), flush=True)
    else:
        from rich.console import Console

        Console(highlight=False, markup=False, emoji=False).print(text)


def listing(facts: Mapping[str, object], indent: str = "") -> str:
    """Facts as aligned lines, those within facts further right."""
    width = max((len(name) for name in facts), default=0)
    lines = []
    for name, value in facts.items():
        if isinstance(value, Mapping):
            lines += [f"{indent}{name}", listing(value, indent + "  ")] if value else [f"{indent}{name:{width}}  -"]
        elif isinstance(value, list | tuple):
            lines.append(f"{indent}{name:{width}}  {', '.join(str(each) for each in value) or '-'}")
        else:
            lines.append(f"{indent}{name:{width}}  {'-' if value is None else value}")
    return "\n".join(lines)
