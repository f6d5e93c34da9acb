"""What is wrong with a file of rows, said in one way everywhere: file, line, field, and what to do."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

from groundup.core.errors import UsageError


@dataclass(frozen=True)
class Problem:
    """One thing to repair. `line` counts from 1 (0: the file as a whole), `unit` is what is counted there."""

    file: str
    line: int
    field: str
    message: str
    fix: str
    unit: str = "line"

    def __str__(self) -> str:
        line = f" {self.unit} {self.line}" if self.line else ""
        place = self.file + line + (f", {self.field}" if self.field else "")
        return printable(f"{place}: {self.message}. {self.fix}".rstrip())


class BadRow(UsageError):
    """A row that cannot be used; whoever knows file and line makes a `Problem` of it."""

    def __init__(self, field: str, message: str, fix: str) -> None:
        super().__init__(f"{field}: {message}. {fix}" if field else f"{message}. {fix}")
        self.field, self.message, self.fix = field, message, fix

    def at(self, file: str, line: int, unit: str = "line") -> Problem:
        return Problem(file, line, self.field, self.message, self.fix, unit)


def printable(text: str) -> str:
    """The text on one line and safe for any terminal: control, direction and half characters become escapes."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escape(char) if unicodedata.category(char) in _UNSAFE else char for char in text)


_UNSAFE = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
_NAMED = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def _escape(char: str) -> str:
    if char in _NAMED:
        return _NAMED[char]
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
