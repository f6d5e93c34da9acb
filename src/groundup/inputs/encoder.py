"""Text in which some places are control tokens and all the rest is text, whatever it spells -> token ids."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping

from tokenizers import AddedToken, Encoding
from tokenizers import Tokenizer as Backend

from groundup.core.errors import GroundupError, UsageError
from groundup.inputs.chat import Rendered


class Encoder:
    """Encodes with a `backend` of which it takes possession.

    The backend is told to leave special tokens in a text alone. The genuine ones are put into the text under names that
    nobody can know; these match as the real ones do, and their ids are exchanged afterwards. So one pass over the whole
    text gives exactly the reference's ids, whatever depends on a neighbour or on being first.

    `control`: the control tokens by id; `unknown`: the id of what the vocabulary cannot spell, which text may give.
    """

    def __init__(self, backend: Backend, control: Mapping[int, AddedToken], unknown: int | None):
        self.backend = backend
        key = secrets.token_hex(16)
        names = {place: f"{key}{place}" for place in control}
        self._cut = f"{key}cut"
        backend.add_special_tokens([_like(token, token.content, special=True) for token in control.values()])
        backend.add_tokens([_like(token, names[place], special=False) for place, token in control.items()])
        backend.add_tokens([AddedToken(self._cut, normalized=False, special=False)])
        backend.encode_special_tokens = True
        self._name = {token.content: names[place] for place, token in control.items()}
        self._real = {_id(backend, name): place for place, name in names.items()}
        self._cut_id = _id(backend, self._cut)
        self._forbidden = frozenset(control) - {unknown}
        self.first_own_id = min([self._cut_id, *self._real])

    def encode(
        self, shown: Rendered, cuts: Iterable[int] = (), special: bool = False
    ) -> tuple[list[int], list[tuple[int, int]]]:
        """The ids, and of each control token (its place in the text, its place in the ids).

        `cuts`: places in the text across which no token may reach; `special`: with the frame that a text gets.
        """
        marked = self._marked(shown, cuts)
        for _ in range(8):
            encoding = self.backend.encode(marked, add_special_tokens=special)
            if not self.forged(encoding):
                break
            for start, end in reversed(self._forgeries(encoding)):  # cut each in two
                middle = (start + end) // 2
                marked = marked[:middle] + self._cut + marked[middle:]
        else:
            raise UsageError(f"The text {shown.text[:60]!r} gives a control token of this model, however it is cut.")

        ids: list[int] = []
        found: list[int] = []
        for place in encoding.ids:
            if place in self._real:
                found.append(len(ids))
            if place != self._cut_id:
                ids.append(self._real.get(place, place))
        if len(found) != len(shown.control):  # an added token that only matches between spaces, say
            raise GroundupError(f"{len(shown.control)} control tokens were written, {len(found)} of them read as such.")
        return ids, [(start, at) for (start, _), at in zip(shown.control, found, strict=True)]

    def forged(self, encoding: Encoding) -> bool:
        """Did plain text give a control token? (A Unigram model has `</s>` among its pieces.)"""
        return not self._forbidden.isdisjoint(encoding.ids) and bool(self._forgeries(encoding))

    def _forgeries(self, encoding: Encoding) -> list[tuple[int, int]]:
        entries = zip(encoding.ids, encoding.special_tokens_mask, encoding.offsets, strict=True)
        return [span for place, of_the_frame, span in entries if place in self._forbidden and not of_the_frame]

    def _marked(self, shown: Rendered, cuts: Iterable[int]) -> str:
        text, pieces, done = shown.text, [], 0
        inserts = [(start, end, self._name[text[start:end]]) for start, end in shown.control]
        edges = {edge for span in shown.control for edge in span}
        inserts += [(cut, cut, self._cut) for cut in cuts if cut not in edges]
        for start, end, name in sorted(inserts):
            pieces += [text[done:start], name]
            done = end
        return "".join([*pieces, text[done:]])


def _like(token: AddedToken, content: str, *, special: bool) -> AddedToken:
    flags = {"single_word": token.single_word, "lstrip": token.lstrip, "rstrip": token.rstrip}
    return AddedToken(content, normalized=False, special=special, **flags)


def _id(backend: Backend, token: str) -> int:
    place = backend.token_to_id(token)
    assert place is not None  # it was added
    return place
