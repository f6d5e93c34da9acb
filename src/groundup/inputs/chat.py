"""Messages -> the text that a model was trained to see, and which parts of that text are control tokens.

A chat template writes control tokens between the messages (`<|im_start|>user\\nHello<|im_end|>`). A message may spell
the same characters, and then nothing in the finished text tells the template's token from the message's letters. So
the text is rendered a second time, with the first and the last character of every control token exchanged, inside the
messages only, for characters that occur nowhere else:

    messages      a<|im_end|>b                      a⟨|im_end|⟩b
    rendered      ...user\\na<|im_end|>b<|im_end|>   ...user\\na⟨|im_end|⟩b<|im_end|>
                                                                  ^^^^^^^^^^ the only control token

What still reads as a control token begins and ends with a character of the template. This holds however the message's
pieces are joined, trimmed or changed on the way, and places in both texts are the same, since no length changes. A
template may look into a message, though, for tags like `</think>`, and find none; then less is exchanged.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from typing import Any

from groundup.core.errors import GroundupError, UsageError
from groundup.inputs.meter import words
from groundup.inputs.sandbox import constants, run

# Dicts like {"role": "user", "content": "Hi"}; they come from files and requests, so they are checked here.
Messages = Sequence[Any]

# Words that templates put between a control token's marks themselves: `<|user|>` in Phi's and Zephyr's.
ROLES = words(
    "assistant developer document environment function human ipython model observation system tool tool_call "
    "tool_response user"
)
WORDS = frozenset(["role", "type"])  # keys whose values templates compare with words of their own


@dataclass(frozen=True)
class Rendered:
    """A conversation as text; `control`: (start, end) of each control token in it that the template wrote."""

    text: str
    control: list[tuple[int, int]]


class Control:
    """The control tokens of a tokenizer, ready to be looked for in a text: the longest at each place, from the left."""

    def __init__(self, tokens: Iterable[str]):
        self.tokens = sorted(tokens, key=lambda token: (-len(token), token))
        self.pattern = re.compile("|".join(map(re.escape, self.tokens)) or "(?!)")  # (?!) is found nowhere
        self.edges = frozenset(edge for token in self.tokens for edge in (token[0], token[-1]))

    def find(self, text: str) -> list[tuple[int, int]]:
        return [match.span() for match in self.pattern.finditer(text)]

    def tags(self, words: Iterable[str]) -> list[str]:
        """Those of `words` that have such an edge in them and are no part of a control token."""
        own = (word for word in words if not any(word in token for token in self.tokens))
        return sorted((word for word in own if not self.edges.isdisjoint(word)), key=len, reverse=True)

    def inside(self, word: str) -> bool:
        """Could `word` be the middle of a control token, its ends written by a template?"""
        return bool(word) and any(word in token[1:-1] for token in self.tokens)


def render(
    template: str,
    messages: Messages,
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    add_generation_prompt: bool = False,
    names: Mapping[str, str] | None = None,
    now: datetime | None = None,
) -> str:
    """The text that `template` (jinja2) makes of a conversation, as transformers' `apply_chat_template` does.

    `messages`: dicts with "role" and usually "content"; keys whose value is None are left out. `names`: what the
    template knows the special tokens by, such as {"bos_token": "<s>"}. `now`: what `strftime_now` tells.
    Raises UsageError for messages that are none or that the template refuses, GroundupError for a template that fails.
    """
    variables = {
        **(names or {}), "messages": _plain_messages(messages), "tools": _plain(tools, "tools"), "documents": None,
        "add_generation_prompt": add_generation_prompt,
    }  # fmt: skip
    return run(template, variables, now)


def render_marked(template: str, messages: Messages, control: Control, **options: Any) -> Rendered:
    """`render`, with the places of the control tokens that come from the template and not from a message."""
    messages = _plain_messages(messages)
    tools = options.pop("tools", None)
    for place, message in enumerate(messages):
        role = message["role"]
        if role not in ROLES and control.inside(role):
            raise UsageError(f"messages[{place}] has the role {role!r}, a part of a control token of this model.")

    text = render(template, messages, tools=tools, **options)
    table = _StandIns([template, text, *_strings(messages), *_strings(tools)])

    def everywhere(value: str, key: str, ours: bool) -> str:
        """Each character that may begin or end a control token; and the first one of a word that may lie in between."""
        hidden = table.exchange(value, control.edges)
        if ours and key not in WORDS and control.inside(value.strip()):
            start = len(value) - len(value.lstrip())
            hidden = hidden[:start] + table.exchange(hidden[start], hidden[start]) + hidden[start + 1 :]
        return hidden

    def around_tags(value: str, key: str, ours: bool) -> str:
        """The same, but what the template itself may look for in a message (`<think>`) stays as it is."""
        parts = tags.split(value)  # text, tag, text, tag, ..., text
        parts[::2] = [everywhere(part, key, ours) for part in parts[::2]]
        return whole_tokens("".join(parts), key, ours)

    def whole_tokens(value: str, key: str, ours: bool) -> str:
        """Only the ends of complete control tokens."""
        while spans := control.find(value):
            for start, end in spans:
                first, last = (table.exchange(edge, edge) for edge in (value[start], value[end - 1]))
                value = value[:start] + (first + value[start + 1 : end - 1] + last)[: end - start] + value[end:]
        return value

    hidden = ""
    tags = re.compile(f"({'|'.join(map(re.escape, control.tags(constants(template)))) or '(?!)'})")
    for change in (everywhere, around_tags, whole_tokens):  # the most careful way that leaves the text as it is
        changed = [_map(message, change, ours=True) for message in messages]
        changed_tools = _map(tools, change, ours=False)
        if not table.used:  # the usual case: nothing in the messages looks like a part of a control token
            return Rendered(text, control.find(text))
        try:
            hidden = render(template, changed, tools=changed_tools, **options)
        except GroundupError:
            if change is whole_tokens:
                raise
        if table.back(hidden) == text:
            break
    return Rendered(table.back(hidden), control.find(hidden))


class _StandIns:
    """Characters that stand for others, none of which occurs in `texts`."""

    def __init__(self, texts: Iterable[str]):
        self._texts = list(texts)
        # Noncharacters, which Unicode keeps for such use inside a program, then the last private plane.
        self._free = map(chr, chain(range(0xFDD0, 0xFDF0), range(0x100000, 0x10FFFE)))
        self.used: dict[str, str] = {}

    def exchange(self, text: str, characters: Iterable[str]) -> str:
        for character in characters:
            if character in text:
                if character not in self.used:
                    self.used[character] = next(c for c in self._free if not any(c in known for known in self._texts))
                text = text.replace(character, self.used[character])
        return text

    def back(self, text: str) -> str:
        return text.translate({ord(stand_in): character for character, stand_in in self.used.items()})


def _plain_messages(messages: Messages) -> list[dict[str, Any]]:
    if isinstance(messages, (str, Mapping)) or not messages:
        raise UsageError('A conversation is a list of one or more messages like {"role": "user", "content": "Hi"}.')
    plain = []
    for place, message in enumerate(messages):
        if not _is_message(message):
            raise UsageError(f'messages[{place}] is not like {{"role": "user", "content": "Hi"}}.')
        present = {key: value for key, value in message.items() if value is not None}
        plain.append(_plain(present, f"messages[{place}]"))
    return plain


def _is_message(value: Any) -> bool:
    return isinstance(value, Mapping) and isinstance(value.get("role"), str)


def _plain(value: Any, where: str, depth: int = 0) -> Any:
    """A copy of `value` out of JSON's own types: what a template can reach must have no methods but theirs."""
    if depth > 50:
        raise UsageError(f"{where[:60]}... is nested more than 50 deep.")
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, Mapping):
        if not all(type(key) is str for key in value):
            raise UsageError(f"{where} has a key that is no text.")
        return {key: _plain(item, f"{where}[{key!r}]", depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{where}[{place}]", depth + 1) for place, item in enumerate(value)]
    raise UsageError(f"{where} is a {type(value).__name__}; a message holds text, numbers, lists and dicts.")


def _map(value: Any, change: Callable[[str, str, bool], str], ours: bool, key: str = "") -> Any:
    """`value` with every text in it changed, its dicts' keys too. `ours`: in a message, not in a tool's schema."""
    if isinstance(value, str):
        return value if key == "role" and value in ROLES else change(value, key, ours)
    if isinstance(value, Mapping):
        return {change(name, "", False): _map(item, change, ours, name) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_map(item, change, ours, key) for item in value]
    return value


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield key
            yield from _strings(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _strings(item)
