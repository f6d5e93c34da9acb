"""The rules by which C4 was made out of web pages, for rows of text (C. Raffel et al., "Exploring the Limits of Transfer
Learning with a Unified Text-to-Text Transformer", JMLR 2020, section 2.2).

What goes of a text, line by line           what takes the whole text
    no-end      no . ! ? " at the end, or ...   braces      it holds { or }: code
    few-words   under 5 words                   lorem       it holds "lorem ipsum"
    javascript  the word is in it               bad-words   a word of the list that was given
    policy      "terms of use", "cookie policy" few-sentences   under 3 are left
    repeated    sentences of a run of three that an earlier text holds

Marks like [1], [edit] and [citation needed] are cut out. C4 also kept only what a detector took for English; that rule
is not here.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field

LINE_RULES = ("no-end", "few-words", "javascript", "policy", "repeated")
TEXT_RULES = ("braces", "lorem", "bad-words", "few-sentences")

_ENDS = (".", "!", "?", '"', "\u201d")
_POLICY = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")
_MARK = re.compile(r"\[(?:\d+|edit|citation needed)\]", re.IGNORECASE)
_SENTENCE = re.compile(r"(?<=[.!?])[\"\u201d')\]]*\s+")


@dataclass
class C4:
    """The rules with their numbers, and what they have seen: texts go through `clean` in their order.

    `lines` counts the lines (for "repeated": sentences) that each rule removed; `words` are those of `bad-words`.
    """

    sentences: int = 3
    words_a_line: int = 5
    words: Collection[str] = ()
    lines: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._seen: set[bytes] = set()
        bad = sorted({word.casefold().strip() for word in self.words if word.strip()})
        self._bad = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, bad))})(?!\w)") if bad else None

    def clean(self, text: str) -> tuple[str, str]:
        """(what is left, ""), or ("", the rule that takes the whole text)."""
        low = text.casefold()
        if "{" in text or "}" in text:
            return "", "braces"
        if "lorem ipsum" in low:
            return "", "lorem"
        if self._bad and self._bad.search(low):
            return "", "bad-words"
        kept = list[str]()
        for line in text.splitlines():
            line = _MARK.sub("", line).strip()
            if not line:
                continue
            if rule := self._line(line):
                self.lines[rule] += 1
            else:
                kept.append(line)
        kept = self._once(kept)
        if sum(len(split(line)) for line in kept) < self.sentences:
            return "", "few-sentences"
        return "\n".join(kept), ""

    def _line(self, line: str) -> str:
        low = line.casefold()
        if not line.endswith(_ENDS) or line.endswith("..."):
            return "no-end"
        if len(line.split()) < self.words_a_line:
            return "few-words"
        if "javascript" in low:
            return "javascript"
        return "policy" if any(phrase in low for phrase in _POLICY) else ""

    def _once(self, lines: list[str]) -> list[str]:
        """The lines without the sentences of any run of three that was seen before."""
        each = [(number, sentence) for number, line in enumerate(lines) for sentence in split(line)]
        gone = set[int]()
        for at in range(len(each) - 2):
            run = " ".join(" ".join(sentence.casefold().split()) for _, sentence in each[at : at + 3])
            digest = hashlib.blake2b(run.encode("utf-8", "surrogatepass"), digest_size=12).digest()
            if digest in self._seen:
                gone |= {at, at + 1, at + 2}
            self._seen.add(digest)
        if not gone:
            return lines
        self.lines["repeated"] += len(gone)
        left = ((number, sentence) for at, (number, sentence) in enumerate(each) if at not in gone)
        joined: dict[int, str] = {}
        for number, sentence in left:
            joined[number] = f"{joined[number]} {sentence}" if number in joined else sentence
        return list(joined.values())


def split(line: str) -> list[str]:
    """The sentences of a line: they end in . ! or ?, whatever quotes and brackets follow, before white space."""
    found, begin = list[str](), 0
    for end in _SENTENCE.finditer(line):
        found.append(line[begin : end.end()].strip())
        begin = end.end()
    return [sentence for sentence in [*found, line[begin:].strip()] if sentence]
