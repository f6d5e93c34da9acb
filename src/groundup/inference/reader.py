"""The text of an answer as its tokens come, up to a stop text."""

from __future__ import annotations

from collections.abc import Sequence

from groundup.inputs.tokenizer import Tokenizer


class Reader:
    """`push(id)` adds a token and says whether a stop text is there; `text` ends where it begins.

    `take` gives the new text that is certain: what may turn out to be the beginning of a stop text is held back.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()):
        self.text = ""
        self.stopped = self._ended = False
        self._stream, self._stop, self._taken = tokenizer.stream(), tuple(stop), 0

    def push(self, id: int) -> bool:
        return self._add(self._stream.push(id))

    def end(self) -> bool:
        """No more tokens come: what was held back is text now. True where a stop text was found, now or before."""
        self._ended = True
        return self.stopped or self._add(self._stream.flush())

    def take(self) -> str:
        """What can be shown and was not given yet."""
        end = len(self.text) if self.stopped or self._ended else len(self.text) - self._uncertain()
        piece = self.text[self._taken : end]
        self._taken += len(piece)
        return piece

    def _add(self, piece: str) -> bool:
        before = len(self.text)
        self.text += piece
        places = [self.text.find(stop, max(0, before - len(stop) + 1)) for stop in self._stop]
        found = [place for place in places if place >= 0]
        if found:
            self.text, self.stopped = self.text[: min(found)], True
        return self.stopped

    def _uncertain(self) -> int:
        """Length of the longest end of the text that begins a stop text."""
        sizes = (n for stop in self._stop for n in range(1, len(stop)) if self.text.endswith(stop[:n]))
        return max(sizes, default=0)
