"""The object that a user holds: a network, its inputs, its config, and where they came from.

A `Model` never changes: `adapt`, `merge` and `finetune` give back a new one that shares every weight they did not touch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from groundup.checkpoints.load import Origin
from groundup.core.config import FamilyConfig
from groundup.core.errors import UsageError
from groundup.inference.classify import probabilities, scores
from groundup.inference.decode import answer, stream
from groundup.inference.embed import Pooling, cut, embed, sentences
from groundup.inference.engine import Answer
from groundup.inference.fill import fill
from groundup.inference.sampling import Filter, Sampling
from groundup.inference.schema import schema_filters
from groundup.inference.speculate import ahead
from groundup.inputs.tokenizer import Tokenizer
from groundup.nn.cache import Fresh
from groundup.nn.stack import Decoder, Encoder, EncoderDecoder
from groundup.nn.step import Step, stacked
from groundup.nn.surgery import tensors
from groundup.peft.adapted import refuse_stack
from groundup.peft.front import PART, Front, fronts, lay, length
from groundup.peft.method import Method

Messages = Sequence[Mapping[str, Any]]
Prompt = str | Messages
Tools = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Model:
    """A network with its tokenizer, config and origin; see `groundup.load`.

    adapter   the name of the adapter in use, or None for the base alone; "a+b" where b is in use over a
    methods   the settings of every adapter on the network, by name
    costs     what shrinking its weights has cost, for the ledger beside the files
    """

    network: Decoder | EncoderDecoder
    family: ModuleType
    config: FamilyConfig
    tokenizer: Tokenizer | None
    origin: Origin
    generation: dict[str, Any] = field(default_factory=dict)
    adapter: str | None = None
    methods: Mapping[str, Method] = field(default_factory=dict)
    notes: Sequence[str] = ()
    costs: Sequence[Mapping[str, Any]] = ()
    precision: str = "float32"

    # --- answers ------------------------------------------------------------------------------------------------------

    def generate(self, prompt: str | Sequence[str], **how: Any) -> str | list[str]:
        """What follows a prompt; a list of prompts gives a list, and so does n > 1.

        how: max_tokens, temperature, top_k, top_p, min_p, repetition_penalty, stop, seed, n, beams, `schema` (a JSON
        schema that the answer must follow), `filters` (callables `(ids, logits, row) -> logits`), `lookup` (guess so many
        tokens ahead from the text itself) or `draft` (a smaller Model that guesses); neither changes the answer. What is left out
        comes from the model's generation_config.json; without one, the likeliest token is taken.
        Raises UsageError when prompt and answer do not fit the context.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        texts = [a.text for a in self._answers(prompts, **how)]
        return texts[0] if isinstance(prompt, str) and how.get("n", 1) == 1 else texts

    def chat(self, messages: Messages, *, tools: Tools | None = None, **how: Any) -> str:
        """The next turn of a conversation [{"role": ..., "content": ...}, ...]; `how` as in `generate`.

        tools  JSON schemas of the functions that the chat template tells the model of
        """
        return self._answers([messages], tools=[tools], **how)[0].text

    def stream(self, prompt: Prompt, **how: Any) -> Iterator[str]:
        """The answer piece by piece, never half a character; `how` as in `generate`, for one answer."""
        return stream(self.network, self.encode(prompt), **self._engine(how))

    def answer(
        self,
        prompts: Sequence[Prompt],
        *,
        tools: Sequence[Tools | None] | None = None,
        batch: int = 64,
        on_answer: Callable[[int, str], None] | None = None,
        **how: Any,
    ) -> list[str]:
        """Answers to many prompts or conversations, up to `batch` at once. Greedy text is as if each were alone.

        tools  those of each conversation, as in `chat`
        on_answer(index, text) is called as soon as one is done.
        """
        tell = None if on_answer is None else (lambda index, a: on_answer(index, a.text))
        return [a.text for a in self._answers(prompts, tools=tools, batch=batch, on_answer=tell, **how)]

    def _answers(
        self,
        prompts: Sequence[Prompt],
        *,
        tools: Sequence[Tools | None] | None = None,
        batch: int = 64,
        on_answer: Callable[[int, Answer], None] | None = None,
        **how: Any,
    ) -> list[Answer]:
        told = [None] * len(prompts) if tools is None else tools
        ids = [self.encode(p, t) for p, t in zip(prompts, told, strict=True)]
        return answer(self.network, ids, batch=batch, on_answer=on_answer, **self._engine(how))

    def _engine(self, how: dict[str, Any]) -> dict[str, Any]:
        """What every way of answering is told: the options, and what this model ends at, holds and uses."""
        sampling, filters = self._how(how)
        told: dict[str, Any] = {
            "sampling": sampling,
            "filters": filters,
            "tokenizer": self.words,
            "stop_ids": self.stop_ids,
            "context": self.context,
            "adapters": self.adapter,
            "draft": ahead(self, how.get("draft"), how.get("lookup")),
        }
        if isinstance(self.network, EncoderDecoder):
            told["decoder_start"] = self.decoder_start
        return told

    def _how(self, how: dict[str, Any]) -> tuple[Sampling, Any]:
        how = dict(how)
        schema, filters = how.pop("schema", None), list(how.pop("filters", ()))
        how = {k: v for k, v in how.items() if k not in ("draft", "lookup")}
        known = set(Sampling.__dataclass_fields__)
        unknown = set(how) - known
        if unknown:
            raise UsageError(f"no such option: {', '.join(sorted(unknown))}; there are {', '.join(sorted(known))}")
        g = self.generation
        drawn = bool(g.get("do_sample", False))
        defaults: dict[str, Any] = {"temperature": float(g.get("temperature") or 1.0) if drawn else 0.0}
        if drawn:
            defaults |= {k: g[k] for k in ("top_k", "top_p", "min_p") if g.get(k)}
        if g.get("repetition_penalty") not in (None, 1.0):
            defaults["repetition_penalty"] = g["repetition_penalty"]
        given = {k: v for k, v in how.items() if v is not None}
        if "stop" in given:
            given["stop"] = (given["stop"],) if isinstance(given["stop"], str) else tuple(given["stop"])
        if schema is not None:
            filters.append(schema_filters(self.words, schema, stop_ids=self.stop_ids))
        return Sampling(**(defaults | given)), filters

    # --- numbers ------------------------------------------------------------------------------------------------------

    def logits(self, text: str) -> Float[Tensor, "L V"]:
        """The score of every word after each token of `text`."""
        ids, step, own = lay(self.network, [self.encode(text)], Fresh(), adapters=self.adapter, device=self.device)
        with torch.inference_mode():
            return self.network(ids, step)[own[0] :].float()

    def fill(self, text: str, *, top: int = 5) -> list[tuple[str, float]] | list[list[tuple[str, float]]]:
        """The likeliest words in the place of the mask, such as `[MASK]`, with their probabilities.

        Several masks give a list of such lists, from left to right. Special tokens spelled in `text` are meant as such.
        Raises UsageError for a model without a mask or a masked-word head, and for a text without a mask.
        """
        name, words = self.origin.name, self.words
        if not isinstance(self.network, Encoder):
            raise UsageError(
                f"{name} ({self.origin.family}) was not made to fill masks: take a BERT, or `generate` what follows"
            )
        if self.network.head is None:
            raise UsageError(f"the file of {name} holds no masked-word head (a BertForMaskedLM's does); it can `embed`")
        if words.mask_id is None:
            raise UsageError(f"the tokenizer of {name} has no mask token; name one in its tokenizer_config.json")
        ids = words.encode(text, control=True)
        if words.mask_id not in ids:
            mask = words.decode([words.mask_id], skip_control=False)
            raise UsageError(f"nothing to fill: write {mask} in the text where a word is missing")
        self.refuse_longer([ids])
        found = fill(self.network, ids, words.mask_id, top=top, adapter=self.adapter, device=self.device)
        named = [[(self.pieces([id])[0], share) for id, share in place] for place in found]
        return named[0] if len(named) == 1 else named

    def embed(
        self,
        texts: str | Sequence[str],
        *,
        pooling: Pooling | None = None,
        truncate: bool = False,
        batch: int = 32,
        on_rows: Callable[[int, int], None] | None = None,
    ) -> Float[Tensor, "n D"]:
        """A vector of unit length for each text, so that a dot product is a cosine.

        pooling   of the tokens' last hidden states: mean, first or last. Left out: what the model's folder says, or else
                  the mean where tokens see both ways, and the last one in a decoder (see `groundup.inference.embed`)
        truncate  cut longer texts than the model reads; without it they are an error that names the first
        on_rows   is told now and then how many texts are done, and of how many
        """
        said = sentences(self.origin.path)
        limits = [n for n in (said.limit, self.context) if n is not None]
        limit = min(limits) - length(self.network, self.adapter) if limits else None
        given = [texts] if isinstance(texts, str) else list(texts)
        rows = self.words.encode_batch([t.lower() for t in given] if said.lower else given)
        if not truncate:
            self.refuse_longer(rows, limit, instead="split it, or allow it to be cut (truncate)")
        elif limit is not None:
            rows = [cut(r, limit, frame=self.words.encode("")) for r in rows]
        usual: Pooling = "mean" if isinstance(self.network, Encoder | EncoderDecoder) else "last"
        how: dict[str, Any] = {"batch": batch, "on_rows": on_rows, "adapter": self.adapter, "device": self.device}
        return embed(self.network, rows, pooling=pooling or said.pooling or usual, **how)

    def classify(
        self, text: str | Sequence[str], *, batch: int = 32
    ) -> dict[str, float] | list[dict[str, float]] | list[tuple[str, str, float]] | list[list[tuple[str, str, float]]]:
        """The probability of each label, the likeliest first; the number itself where the head learned one.

        Several texts give a list. Where the head judges words, a text gives (word, label, probability) for each.
        Raises UsageError for a model without a head for labels, and for a text longer than the model reads.
        """
        labels = self.config.labels
        if labels is None:
            raise UsageError(
                f"{self.origin.name} has no head for labels: groundup finetune it on rows with labels first"
            )
        given = [text] if isinstance(text, str) else list(text)
        if labels.level == "token":
            words = [one.split() for one in given]
            tagged = [
                [(w, labels.names[int(p.argmax())], float(p.max())) for w, p in zip(some, found, strict=True)]
                for some, found in zip(words, self.judge(words, batch=batch), strict=True)
            ]
            return tagged[0] if isinstance(text, str) else tagged
        found = []
        for (row,) in self.judge(given, batch=batch):
            named = dict(zip(labels.names, row.tolist(), strict=True))
            in_order = labels.problem == "regression"
            found.append(named if in_order else dict(sorted(named.items(), key=lambda pair: -pair[1])))
        return found[0] if isinstance(text, str) else found

    def judge(self, given: Sequence[str] | Sequence[Sequence[str]], *, batch: int = 32) -> list[Float[Tensor, "N K"]]:
        """Probabilities of the labels in their order: [1, K] for each text, or [N, K] for the N words of each."""
        labels, network = self.config.labels, self.network
        assert labels is not None and isinstance(network, Decoder)
        words = labels.level == "token"
        read = [self.words.of_words(each) for each in given if not isinstance(each, str)] if words else []
        rows = (
            [ids for ids, _ in read] if words else [self.words.encode(each) for each in given if isinstance(each, str)]
        )
        self.refuse_longer(rows)
        for number, row in enumerate(rows):
            if not row:
                raise UsageError(f"text {number + 1} has no tokens, so there is nothing to judge")
        places = [at for _, at in read] if words else None
        how: dict[str, Any] = {"adapter": self.adapter, "device": self.device, "batch": batch}
        return [probabilities(one, labels) for one in scores(network, rows, places, **how)]

    def refuse_longer(
        self, rows: Sequence[Sequence[int]], most: int | None = None, *, instead: str = "shorten it"
    ) -> None:
        """UsageError for the first text of more tokens than `most`, or than the model reads beside the adapter in use."""
        most = self.room if most is None else most
        for number, row in enumerate(rows, start=1):
            if most is not None and len(row) > most:
                text = "the text" if len(rows) == 1 else f"text {number}"
                raise UsageError(f"{text} has {len(row)} tokens, {self.origin.name} reads {most}: {instead}")

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """The text of each token alone; its number where there is no tokenizer."""
        if self.tokenizer is None:
            return [str(id) for id in ids]
        return [self.tokenizer.decode([id], skip_control=False) for id in ids]

    # --- what it is ---------------------------------------------------------------------------------------------------

    def encode(self, prompt: Prompt, tools: Tools | None = None) -> list[int]:
        """The ids of a text, or of a conversation (and the tools it may use) up to where the answer begins."""
        if not isinstance(prompt, str):
            return self.words.chat(prompt, tools=tools)
        if tools:
            raise UsageError("tools belong to a conversation: give messages, not a text")
        return self.words.encode(prompt)

    def step(self, lengths: Sequence[int]) -> Step:
        """A call that stands alone, with the adapter in use."""
        return Step.of(lengths, Fresh(), adapters=self.adapter, device=self.device)

    def using(self, adapter: str | None) -> Model:
        """The same model with another of its adapters in use, or with none; "a+b" uses both, b over a.

        Raises UsageError for a name that is none, and for adapters that cannot be used together.
        """
        names = stacked(adapter)
        for name in names:
            whole, _, part = name.partition(PART)
            if whole in self.methods and part:
                fronts(self.network).get(whole, Front()).part(part)  # which says what is wrong
            elif name not in self.methods:
                raise UsageError(f"no adapter {name!r} here; there are {', '.join(self.methods) or 'none'}")
            if len(names) > 1 and self.methods[name].whole:
                raise UsageError(
                    f"{adapter}: {self.methods[name].kind} trains the model itself, so nothing is stacked on it"
                )
        refuse_stack(self.network, names)
        return replace(self, adapter=adapter)

    @property
    def method(self) -> Method:
        """What the adapter in use is. UsageError where there is none, or several at once."""
        if self.adapter is None:
            raise UsageError("no adapter is in use: adapt the model first, e.g. adapt(model, LoRA())")
        if self.adapter not in self.methods:
            one = stacked(self.adapter)[-1]
            raise UsageError(
                f"{self.adapter} are several adapters at once: train or save one alone, e.g. using({one!r})"
            )
        return self.methods[self.adapter]

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    @property
    def context(self) -> int | None:
        """The longest text in tokens, None where positions have no end."""
        return self.config.context

    @property
    def room(self) -> int | None:
        """How much of the context is left beside what the adapter in use puts before a row."""
        return None if self.context is None else self.context - length(self.network, self.adapter)

    @property
    def decoder_start(self) -> int:
        """The id with which an encoder-decoder's answers begin."""
        return int(self.generation.get("decoder_start_token_id", self.config.extra.get("decoder_start_token_id", 0)))

    @property
    def stop_ids(self) -> frozenset[int]:
        return self.words.stop_ids

    @property
    def words(self) -> Tokenizer:
        if self.tokenizer is None:
            raise UsageError(f"{self.origin.name} has no tokenizer; put its tokenizer.json into the folder")
        return self.tokenizer

    def info(self) -> dict[str, Any]:
        """What it is, for people: family, sizes, formats, stop tokens, sampling defaults, adapters, notes of the load."""
        held = tensors(self.network)
        facts: dict[str, Any] = {
            "model": self.origin.name,
            "family": self.origin.family,
            "file": str(self.origin.path),
            "format": self.origin.format,
            "fingerprint": self.origin.fingerprint,
            "parameters": sum(t.numel() for t in held.values()),
            "bytes in memory": sum(t.numel() * t.element_size() for t in held.values()),
            "precision": self.precision,
            "context": self.context,
        }
        if self.tokenizer is not None:
            names = {v: k for k, v in self.tokenizer.control.items()}
            facts["vocabulary"] = self.tokenizer.vocab_size
            facts["chat template"] = self.tokenizer.template is not None
            facts["stops at"] = [names.get(i, str(i)) for i in sorted(self.stop_ids)]
        facts["sampling"] = self._how({})[0].described()
        facts["sampling comes from"] = "generation_config.json" if self.generation else "no file: greedy"
        if self.config.labels is not None:
            facts["labels"] = list(self.config.labels.names)
        facts["adapters"] = list(self.methods)
        facts["notes"] = list(self.notes)
        return facts


__all__ = ["Filter", "Messages", "Model", "Prompt"]
