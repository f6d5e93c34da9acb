"""Text from token ids as they come."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tokenizers import Tokenizer as Backend


class Stream:
    """`push(id)` gives the text that is certain by now; all of it together, with `flush()`, is the text of all ids.

    A character may be spread over several tokens, so what might be the beginning of one is held back. `held` are the
    ids of tokens that are one byte each, a whole row of which is read as characters (sentencepiece's byte fallback).
    """

    def __init__(self, backend: Backend, shown: Callable[[Sequence[int]], list[int]], held: frozenset[int]):
        self._backend, self._shown, self._held = backend, shown, held
        self._before: list[int] = []  # the last that were given out: how a token is written depends on them
        self._pending: list[int] = []

    def push(self, id: int) -> str:
        """The new text, often one token's, sometimes none yet."""
        pending = self._shown([id])
        self._pending += pending
        if not pending or id in self._held:
            return ""
        return self._given(final=False)

    def flush(self) -> str:
        """What was held back, at the end: bytes that never became a character are shown as U+FFFD."""
        return self._given(final=True) if self._pending else ""

    def _given(self, final: bool) -> str:
        said = self._backend.decode(self._before, skip_special_tokens=False)
        text = self._backend.decode(self._before + self._pending, skip_special_tokens=False)
        if not final and text.endswith("\ufffd"):
            return ""
        self._before, self._pending = self._pending, []
        return text[len(said) :]
