"""Answers that can be nothing but JSON of a given form: at each token, a grammar says which ones may follow.

The grammar is llguidance's (Earley parser over a trie of the vocabulary); here are its filter and its limits.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from torch import Tensor

from groundup.core.errors import UsageError
from groundup.inference.sampling import Filter
from groundup.inputs.tokenizer import Tokenizer

WRITTEN: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}  # as json.dumps writes


class SchemaFilter:
    """The tokens that a JSON schema allows, a matcher of its own for every answer (a `sampling.PerRow`).

    Where the JSON is complete and nothing can follow, only `stop_ids` are left.
    Raises UsageError, in one line, for a schema that says nothing sensible or that is too big.
    """

    def __init__(self, tokenizer: Tokenizer, schema: Mapping[str, Any], stop_ids: Iterable[int]):
        self.stop_ids = sorted(stop_ids)
        if not self.stop_ids:
            raise UsageError("a schema needs a token that ends an answer, and this model's tokenizer names none")
        try:
            grammar = LLMatcher.grammar_from_json_schema(json.dumps(dict(schema)), overrides=WRITTEN)
        except (ValueError, TypeError) as error:
            raise UsageError(f"this JSON schema cannot be used: {_line(error)}") from None
        self._vocabulary = _vocabulary(tokenizer, tuple(self.stop_ids))
        limits = LLParserLimits(max_grammar_size=200_000, verbose_errors=False)
        self._first = LLMatcher(self._vocabulary, grammar, log_level=0, limits=limits)
        if self._first.is_error():
            raise UsageError(f"this JSON schema cannot be used: {_line(self._first.get_error())}")

        self._masks = _Masks(self.stop_ids)

    def start(self) -> Filter:
        return _Follow(self._first.deep_copy(), self._vocabulary.vocab_size, self._masks)


def schema_filters(
    tokenizer: Tokenizer, schema: Mapping[str, Any], *, stop_ids: Iterable[int] | None = None
) -> SchemaFilter:
    """What `answer(..., filters=)` takes to give JSON of this schema, written as json.dumps writes it."""
    return SchemaFilter(tokenizer, schema, tokenizer.stop_ids if stop_ids is None else stop_ids)


@lru_cache(maxsize=2)
def _vocabulary(tokenizer: Tokenizer, stop_ids: tuple[int, ...]) -> LLTokenizer:
    """The trie of all tokens: half a second for 49,152 of them, so it is kept."""
    slices = LLTokenizer.json_slices()
    return LLTokenizer(tokenizer.to_json(), n_vocab=tokenizer.vocab_size, eos_token=list(stop_ids), slices=slices)


class _Follow:
    """One answer's filter: it reads the tokens that came since the last call, and masks."""

    def __init__(self, matcher: LLMatcher, vocabulary: int, masks: _Masks):
        self._matcher, self._masks = matcher, masks
        self._bits = np.zeros((vocabulary + 31) // 32, dtype=np.int32)
        self._read: int | None = None  # tokens of the row that the matcher has seen; None: not begun

    def __call__(self, ids: list[int], logits: Tensor, row: int) -> Tensor:
        new = [] if self._read is None else ids[self._read :]
        self._read = len(ids)
        if new and not self._matcher.consume_tokens(new):
            raise UsageError(f"the grammar gave up in answer {row + 1}: {_line(self._matcher.get_error())}")
        if self._matcher.is_stopped():
            self._bits[:] = 0
        else:
            self._matcher.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)
            if self._matcher.is_error():
                raise UsageError(f"the grammar gave up in answer {row + 1}: {_line(self._matcher.get_error())}")
        few, index = self._masks.find(self._bits, self._matcher.is_accepting(), len(logits))
        index = index.to(logits.device)
        if few:
            return torch.full_like(logits, -torch.inf).index_copy_(0, index, logits[index])
        return logits.index_fill(0, index, -torch.inf)


class _Masks:
    """Masks as the few places where something is to be written, kept: inside a text the same one comes again and again.

    A mask is (True, the only tokens allowed) or (False, the only tokens forbidden). Writing a few places takes a tenth
    of the time that a mask over a large vocabulary takes.
    """

    def __init__(self, stop_ids: Sequence[int]):
        self._stop_ids = list(stop_ids)
        self._kept: dict[tuple[bytes, bool, int], tuple[bool, Tensor]] = {}

    def find(self, bits: np.ndarray, ends: bool, size: int) -> tuple[bool, Tensor]:
        """bits: of llguidance, one a token; ends: the answer may end here; size: V, which may exceed the vocabulary."""
        key = (bits.tobytes(), ends, size)
        found = self._kept.get(key)
        if found is None:
            allowed = np.zeros(size, dtype=bool)
            given = np.unpackbits(bits.view(np.uint8), bitorder="little")[:size]
            allowed[: len(given)] = given
            allowed[self._stop_ids] = ends
            few = 2 * np.count_nonzero(allowed) < size
            if len(self._kept) >= 512:
                self._kept.clear()
            found = self._kept[key] = bool(few), torch.from_numpy(np.flatnonzero(allowed == few))
        return found


def _line(error: object) -> str:
    """The first line of a message, short enough for one."""
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else "no reason given"
