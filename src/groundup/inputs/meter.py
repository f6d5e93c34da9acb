"""What one rendering of a chat template may use: processor time, size of a value, size of all values, depth of calls.

    tick    has this template used up its time?
    room    would this operation make something larger than the limit? (asked *before* it is made)
    keep    how large, printed in full, is what was made? (a list that holds a long text twice counts it twice)

As no value is ever larger than the limit, no single step of C code takes long, and the clock is looked at in between.
Nothing here needs a thread or a signal, so it holds in every thread.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable
from itertools import chain
from typing import Any

from jinja2.exceptions import TemplateError
from jinja2.utils import Namespace

SECONDS = 0.75  # of this thread's processor time, so that a busy machine does not make a good template fail
LARGEST = 1_000_000  # characters, and four times what the messages hold
CALL_DEPTH = 60
WIDTH = 10_000  # the largest number that pads, rounds or indents
RANGE = 10_000
BITS = 10_000  # of a whole number: dividing long ones takes the square of their length


def words(text: str) -> frozenset[str]:
    return frozenset(text.split())


WIDTH_ARGUMENTS = words("center indent int ljust rjust round truncate zfill")
# Python strips, and searches from the right, in time (length of text) x (length of argument).
SHORT_ARGUMENTS = words("lstrip rfind rindex rpartition rsplit rstrip strip trim")
# A width or a precision in `'%9999d' % 1`, in `'{:9999}'.format(1)`, or one that comes from elsewhere (`*`, `{:{}}`).
WIDE = re.compile(r"%(\([^)]*\))?[#0\- +]*(\d{4}|\*|\d*\.(\d{4}|\*))|\{[^{}]*:[^{}]*(\d{4}|\{)")
CONTAINERS: tuple[type, ...] = (list, tuple, dict, type({}.items()), type({}.keys()), type({}.values()))


class Limit(TemplateError):
    """The template asked for more time, memory or freedom than a chat template needs."""


class Meter:
    """Counts for one rendering. A size is about what `str(value)` takes: 8 for any value, and the characters of a text.

    `largest`: the size that a value may have; all values ever made together may have 16 times that.
    """

    def __init__(self, given: int = 0):
        self.largest = LARGEST + 4 * given
        self.used = self.depth = 0
        self.deadline = time.thread_time() + SECONDS
        self.sizes: dict[int, tuple[object, int]] = {}  # of containers, which are kept alive so that ids stay theirs

    def tick(self) -> None:
        if time.thread_time() > self.deadline:
            raise Limit(f"it ran for more than {SECONDS} seconds")

    def ticked(self, value: Any) -> Any:
        self.tick()
        return value

    def room(self, size: int) -> None:
        if size > self.largest:
            raise Limit(f"it makes more than {self.largest} characters")
        if self.used + size > 16 * self.largest:
            raise Limit(f"it uses more than {16 * self.largest} characters in all")

    def keep(self, value: Any) -> Any:
        """`value`, after its size was checked and what it newly takes was counted."""
        self.tick()
        if not isinstance(value, Namespace):
            self.room(self.size(value))
        if isinstance(value, str):
            self.used += len(value)
        elif isinstance(value, (list, tuple, dict)):
            self.used += 8 * len(value)
        self.used += 8
        return value

    def size(self, value: Any) -> int:
        if isinstance(value, str):
            return 8 + len(value)
        if isinstance(value, int):
            self.bits(value.bit_length())
            return 8 + value.bit_length() // 3
        if isinstance(value, Namespace):
            raise Limit("a namespace can only be used by its attributes")
        if not isinstance(value, CONTAINERS):
            return 8  # None, a float, and whatever prints as a few words (a generator, a macro, something undefined)
        if id(value) in self.sizes:
            return self.sizes[id(value)][1]
        members: Any = value
        parts = chain(members, value.values()) if isinstance(value, dict) else members
        size = 8
        for part in parts:
            size += 8 + len(part) if type(part) is str else self.size(part)
            if size > self.largest:
                break  # more than enough to be refused
        if isinstance(value, (list, tuple, dict)):
            self.sizes[id(value)] = (value, size)
        return size

    def bits(self, count: int) -> None:
        if count > BITS:
            raise Limit(f"it makes a number of more than {BITS} bits")

    def deeper(self) -> None:
        self.tick()
        self.depth += 1
        if self.depth > CALL_DEPTH:
            raise Limit(f"calls are nested more than {CALL_DEPTH} deep")

    # --- checks before something is done ------------------------------------------------------------------------------

    def check_call(self, name: str, args: list[Any]) -> None:
        """A filter, test or method `name` on args[0] with the rest as its arguments."""
        self.room(sum(map(self.size, args)))
        for arg in args[1:]:
            if name in WIDTH_ARGUMENTS and isinstance(arg, int) and abs(arg) > WIDTH:
                raise Limit(f"a width of more than {WIDTH} for {name} is refused")
            if name in SHORT_ARGUMENTS and isinstance(arg, str) and len(arg) > 256:
                raise Limit(f"a text of {len(arg)} characters for {name} is refused")
        if name == "indent":
            text = self.text(args[0])
            width = max([4, *(len(arg) if isinstance(arg, str) else int(arg) for arg in args[1:])])
            self.room(len(text) + (text.count("\n") + 1) * width)
        if name == "format":
            self.check_format(self.text(args[0]), args[1:])

    def check_format(self, form: str, args: list[Any]) -> None:
        """A format may make a large text of a small one: by wide fields, or by many fields with long arguments."""
        if WIDE.search(form.replace("{{", "").replace("}}", "")):
            raise Limit("a format with a width of more than 999 is refused")
        fields = form.count("%") + form.count("{")
        self.room(len(form) + fields * (1000 + sum(map(self.size, args))))

    def check_operator(self, operator: str, left: Any, right: Any) -> None:
        """One of + * ** %."""
        self.tick()
        whole = isinstance(left, int) and isinstance(right, int)
        if operator == "+" and not isinstance(left, (int, float)):
            self.room(self.size(left) + self.size(right))
        elif operator == "*" and whole:
            self.bits(left.bit_length() + right.bit_length())
        elif operator == "*" and (isinstance(left, int) or isinstance(right, int)):
            times, thing = (left, right) if isinstance(left, int) else (right, left)
            self.room((self.size(thing) - 8) * times)
        elif operator == "**" and whole:
            self.bits(left.bit_length() * abs(right))
        elif operator == "%" and isinstance(left, str):
            self.check_format(left, [right])

    # --- what would make something large without being asked ----------------------------------------------------------

    def text(self, value: Any) -> str:
        if not isinstance(value, str):
            self.room(self.size(value))
        return str(value)

    def join(self, values: Iterable[Any], separator: str = "") -> str:
        texts, length = [], 0
        for value in values:
            self.tick()
            texts.append(self.text(value))
            length += len(texts[-1]) + len(separator)
            self.room(length)
        return self.keep(separator.join(texts))

    def replace(self, text: str, old: str, new: str, count: int | None = None) -> str:
        self.room(len(text) + text.count(old) * len(new))
        return text.replace(old, new, -1 if count is None else count)

    def sum(self, values: Iterable[Any], start: Any) -> Any:
        for value in values:
            self.tick()
            if not isinstance(value, (int, float)):
                raise Limit("sum() adds numbers only")
            start += value
        return start

    def json(self, value: Any, ensure_ascii: bool, indent: int | None, separators: Any, sort_keys: bool) -> str:
        self.room(self.size(value))
        if not 0 <= int(indent or 0) <= 16:
            raise Limit("an indent of more than 16 for tojson is refused")
        pair = None if separators is None else tuple(separators)
        encoder = json.JSONEncoder(ensure_ascii=ensure_ascii, indent=indent, separators=pair, sort_keys=sort_keys)
        return self.join(encoder.iterencode(value))

    def range(self, *args: int) -> range:
        numbers = range(*args)
        if len(numbers) > RANGE:
            raise Limit(f"range() of more than {RANGE} numbers")
        return numbers
