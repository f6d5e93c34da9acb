"""Text <-> token ids, and conversations <-> token ids: the one path for training, chat, evaluation and serving."""

from __future__ import annotations

import hashlib
import json
import os
import re
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from groundup.core.errors import GroundupError, UsageError
from groundup.core.files import atomic_write, write_json
from groundup.inputs.chat import Control, Messages, Rendered, render_marked
from groundup.inputs.encoder import Encoder
from groundup.inputs.folder import vocabulary_from_folder
from groundup.inputs.gguf_tokens import metadata_of
from groundup.inputs.gguf_vocabulary import stops_from_gguf, vocabulary_from_gguf
from groundup.inputs.stream import Stream
from groundup.inputs.vocabulary import Vocabulary

MARK = re.compile(r"[^\w\s].+[^\w\s]")  # `<think>` is one, a word or two spaces are none
BYTE = re.compile("<0x[0-9A-F]{2}>")
PROBE = [{"role": "user", "content": "Is it so?"}, {"role": "assistant", "content": "So it is, groundup."}]


@dataclass(frozen=True)
class Encoded:
    """Token ids, and for each whether it is learned from (of the same length)."""

    ids: list[int]
    trained: list[bool]

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.trained):
            raise ValueError(f"{len(self.ids)} ids, {len(self.trained)} marks")


class Tokenizer:
    """A model's tokenizer with its special tokens and chat template.

    Control tokens (`control`: text -> id) are the special tokens, and those other added tokens that the chat template
    writes. They come from the template and from `encode`'s own framing. The text of a message or a prompt never
    becomes one, whatever it spells, unless `control=True` says that it may.

    `vocab_size`: number of ids; `bos_id`, `eos_id`, `mask_id`: None where there is none; `pad_id`: what fills a
    rectangle, for callers that need one; `template`: the chat template or None; `now`: the moment that a template is
    told (None: the present), for runs that must repeat to the bit with a template that writes the date.
    """

    def __init__(self, vocabulary: Vocabulary, *, stop_ids: Iterable[int] = ()):
        self._backend = backend = vocabulary.backend
        self._names = dict(vocabulary.names)
        self._given_stop_ids = frozenset(stop_ids)
        self.source, self.template = vocabulary.source, vocabulary.template
        self.now: datetime | None = None
        self.vocab_size: int = backend.get_vocab_size(with_added_tokens=True)
        self.bos_id, self.eos_id = self._named("bos_token"), self._named("eos_token")
        self.mask_id, pad, unk = (self._named(f"{name}_token") for name in ("mask", "pad", "unk"))
        self.pad_id: int = next(place for place in (pad, self.eos_id, 0) if place is not None)

        self._added = backend.get_added_tokens_decoder()
        self._special_ids = frozenset(place for place, token in self._added.items() if token.special)
        control = {
            place: token for place, token in self._added.items()
            if token.special or (MARK.fullmatch(token.content) and token.content in (self.template or ""))
        }  # fmt: skip
        self.control: dict[str, int] = {token.content: place for place, token in control.items()}
        self._control = Control(self.control)
        self._encoder = Encoder(backend, control, unk)

    @classmethod
    def from_folder(cls, path: str | os.PathLike[str], *, stop_ids: Iterable[int] = ()) -> Tokenizer:
        """The tokenizer of a Hugging Face folder. `stop_ids`: further ids that end a text (generation_config.json)."""
        return cls(vocabulary_from_folder(Path(path)), stop_ids=stop_ids)

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any], *, stop_ids: Iterable[int] = ()) -> Tokenizer:
        """The tokenizer inside a GGUF file, from its metadata."""
        return cls(vocabulary_from_gguf(metadata), stop_ids={*stop_ids, *stops_from_gguf(metadata)})

    # --- text ---------------------------------------------------------------------------------------------------------

    def encode(self, text: str, *, special: bool = True, control: bool = False) -> list[int]:
        """The ids of `text`.

        `special`: with the frame that the model wants around a text ([CLS] ... [SEP], a BOS in front, or nothing).
        `control`: whether control tokens spelled in `text` become control tokens.
        """
        places = self._control.find(text) if control else []
        return self._encoder.encode(Rendered(text, places), special=special)[0]

    def spans(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """The ids of `encode(text)`, and where in the text each begins and ends; (0, 0) for what frames it.

        Raises UsageError for a text that spells a control token, whose pieces have no places of their own.
        """
        encoding = self._backend.encode(text, add_special_tokens=True)
        if self._encoder.forged(encoding):
            raise UsageError(f"the text {text[:60]!r} spells a control token of this model: change that word")
        frame = encoding.special_tokens_mask
        return encoding.ids, [(0, 0) if f else span for f, span in zip(frame, encoding.offsets, strict=True)]

    def of_words(self, words: Sequence[str]) -> tuple[list[int], list[int]]:
        """The ids of words with spaces between them, and where in them each word begins.

        Raises UsageError for a word of which nothing is left.
        """
        ids, spans = self.spans(" ".join(words))
        ends, at = [], -1
        for word in words:
            at += len(word) + 1
            ends.append(at)
        first: dict[int, int] = {}
        for place, (begin, end) in enumerate(spans):
            if end > begin:  # a piece may begin with the space before its word
                first.setdefault(bisect_left(ends, end), place)
        lost = next((word for number, word in enumerate(words) if number not in first), None)
        if lost is not None:
            raise UsageError(f"the word {lost!r} gives no token of its own: write it differently")
        return ids, [first[number] for number in range(len(words))]

    def encode_batch(self, texts: Sequence[str], *, special: bool = True, control: bool = False) -> list[list[int]]:
        """`encode` of every text."""
        if control:
            return [self.encode(text, special=special, control=True) for text in texts]
        encodings = self._backend.encode_batch(list(texts), add_special_tokens=special)
        return [
            self.encode(text, special=special) if self._encoder.forged(encoding) else encoding.ids
            for text, encoding in zip(texts, encodings, strict=True)
        ]

    def decode(self, ids: Sequence[int], *, skip_control: bool = True) -> str:
        """The text of `ids`, without special tokens unless `skip_control` is False. Nothing is tidied up."""
        return self._backend.decode(self._shown(ids, skip_control), skip_special_tokens=False)

    def stream(self, *, skip_control: bool = True) -> Stream:
        """Text from ids that come one after the other; never half a character."""
        return Stream(self._backend, lambda ids: self._shown(ids, skip_control), self._byte_ids)

    # --- conversations ------------------------------------------------------------------------------------------------

    def chat(
        self,
        messages: Messages,
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        control: bool = False,
    ) -> list[int]:
        """The ids of a conversation as the model's chat template writes it, by default up to where an answer begins.

        Nothing is put around it: a BOS is there when the template writes one. `control=True` is for messages that hold
        the template's own marks on purpose and come from nobody else.
        """
        return self._conversation(messages, add_generation_prompt, tools, control).ids

    def chat_spans(
        self, messages: Messages, tools: Sequence[Mapping[str, Any]] | None = None, *, control: bool = False
    ) -> Encoded:
        """A whole conversation to learn from: the ids of `chat(messages, add_generation_prompt=False)`, and as trained
        what the model has to say by itself: from where `chat(messages so far)` ends to the token that ends the turn.

        Raises UsageError where the template shows an earlier turn differently once later ones follow (what would be
        learned is not what is asked for in a chat), or does not end a turn by a token that stops the model.
        """
        talk = self._conversation(messages, False, tools, control)
        trained = [False] * len(talk.ids)
        for turn in (turn for turn, message in enumerate(messages) if message["role"] == "assistant"):
            start = talk.starts.get(turn)
            if start is None:
                raise UsageError(
                    f"The chat template writes messages[:{turn}] differently when messages[{turn}] follows them, so "
                    "that answer cannot be learned as it will be asked for. Split the conversation after each answer."
                )
            last = turn == len(messages) - 1
            text = talk.text if last else self._rendered(messages[: turn + 1], False, tools, control).text
            end = _common(text, talk.text)
            stops = [at for place, at in talk.control if start <= at and place < end and talk.ids[at] in self.stop_ids]
            if not stops:
                raise UsageError(
                    f"The chat template ends messages[{turn}] by no token that stops the model, so it would learn to "
                    "talk on for ever. Give the model a template that ends an answer by its end-of-text token."
                )
            trained[start : stops[-1] + 1] = [True] * (stops[-1] + 1 - start)
        return Encoded(talk.ids, trained)

    @cached_property
    def end_of_turn(self) -> int:
        """The id that ends an assistant's turn: what the template writes after it, or else the end-of-text token."""
        if self.template is not None:
            try:
                shown = self._rendered(PROBE, False, None, False)
            except GroundupError:  # it may want a system message, or tools
                shown = Rendered("", [])
            after = shown.text.rfind(PROBE[1]["content"])
            for start, end in shown.control:
                if 0 <= after < start:
                    return self.control[shown.text[start:end]]
        if self.eos_id is None:
            raise UsageError(f"Nothing ends a turn: {self.source} has no eos_token, and no chat template with one.")
        return self.eos_id

    @cached_property
    def stop_ids(self) -> frozenset[int]:
        """Every id at which generation ends."""
        try:
            own = {self.end_of_turn}
        except UsageError:
            own = set()
        return self._given_stop_ids | own | ({self.eos_id} if self.eos_id is not None else set())

    # --- files --------------------------------------------------------------------------------------------------------

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes tokenizer.json, tokenizer_config.json, special_tokens_map.json, chat_template.jinja into `folder`."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
        atomic_write(folder / "tokenizer.json", json.dumps(self._json(), ensure_ascii=False, indent=1))
        write_json(folder / "tokenizer_config.json", settings | self._names)
        write_json(folder / "special_tokens_map.json", self._names)
        if self.template is not None:
            atomic_write(folder / "chat_template.jinja", self.template)

    def to_gguf(self, size: int) -> dict[str, Any]:
        """The metadata (`tokenizer.*`) of a GGUF file for a model of `size` tokens.

        Raises UsageError for a kind of tokenizer that GGUF cannot say.
        """
        return metadata_of(self._json(), self._backend, self._names, self.template, self.stop_ids, size)

    def to_json(self) -> str:
        """The content of tokenizer.json, for libraries that read one."""
        return json.dumps(self._json())

    def fingerprint(self) -> str:
        """sha256 (hexadecimal) of all that decides which ids a text gets: equal after `save` and `from_folder`."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        content = {"tokenizer": self._json(), "names": self._names, "template": self.template}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    # --- inside -------------------------------------------------------------------------------------------------------

    def _named(self, name: str) -> int | None:
        return self._backend.token_to_id(self._names[name]) if name in self._names else None

    def _json(self) -> dict[str, Any]:
        """tokenizer.json as it was given, without what `__init__` added."""
        content = json.loads(self._backend.to_str())
        flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
        content["added_tokens"] = [
            {"id": place, "content": token.content} | {flag: getattr(token, flag) for flag in flags}
            for place, token in sorted(self._added.items())
        ]
        return content

    @cached_property
    def _byte_ids(self) -> frozenset[int]:
        """The tokens that are one byte each, of which a whole row is read as characters."""
        if "ByteFallback" not in json.dumps(self._json()["decoder"]):
            return frozenset()
        return frozenset(place for token, place in self._backend.get_vocab().items() if BYTE.fullmatch(token))

    def _shown(self, ids: Sequence[int], skip_control: bool) -> list[int]:
        hidden = self._special_ids if skip_control else frozenset()
        return [place for place in ids if place < self._encoder.first_own_id and place not in hidden]

    def _rendered(
        self, messages: Messages, prompt: bool, tools: Sequence[Mapping[str, Any]] | None, control: bool
    ) -> Rendered:
        if self.template is None:
            raise UsageError(f"There is no chat template in {self.source}. Use generate, with a prompt.")
        options = {"tools": tools, "add_generation_prompt": prompt, "names": self._names, "now": self.now}
        shown = render_marked(self.template, messages, self._control, **options)
        return Rendered(shown.text, self._control.find(shown.text)) if control else shown

    def _conversation(
        self, messages: Messages, prompt: bool, tools: Sequence[Mapping[str, Any]] | None, control: bool
    ) -> _Conversation:
        """Encodes a conversation so that what was said before an answer has the ids that it had when it was asked for.

        Where an answer begins with a line break, the merges of the whole text might reach across from the prompt into
        the answer; the text is cut there, as it was when the answer was made.
        """
        shown = self._rendered(messages, prompt, tools, control)
        prompts: dict[int, Rendered] = {}
        for turn, message in enumerate(messages):
            if message["role"] == "assistant":
                try:
                    prompted = self._rendered(messages[:turn], True, tools, control)
                except UsageError:  # nothing was asked before it, or not in a way that the template takes
                    continue
                if shown.text.startswith(prompted.text):
                    prompts[turn] = prompted

        ids, places = self._encoder.encode(shown)
        cuts: list[int] = []
        asked: dict[int, list[int]] = {}
        for turn, prompted in prompts.items():
            asked[turn], _ = self._encoder.encode(prompted, cuts)
            if not _begins(ids, asked[turn]):
                again, places_again = self._encoder.encode(shown, [*cuts, len(prompted.text)])
                if _begins(again, asked[turn]):
                    ids, places, cuts = again, places_again, [*cuts, len(prompted.text)]
        starts = {turn: len(before) for turn, before in asked.items() if _begins(ids, before)}
        return _Conversation(ids, shown.text, places, starts)


@dataclass(frozen=True)
class _Conversation:
    """`control`: of each control token (place in text, place in ids); `starts`: message -> where its answer begins."""

    ids: list[int]
    text: str
    control: list[tuple[int, int]]
    starts: dict[int, int]


def _begins(ids: list[int], with_these: list[int]) -> bool:
    return ids[: len(with_these)] == with_these


def _common(one: str, other: str) -> int:
    """How many characters two texts have in common from their beginning."""
    if other.startswith(one):
        return len(one)
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), len(other))
