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

from groundup.checkpoints.adapters import Probe
from groundup.checkpoints.load import Origin
from groundup.core.config import FamilyConfig
from groundup.core.errors import UsageError
from groundup.inference.decode import Answer, answer, stream
from groundup.inference.sampling import Filter, Sampling
from groundup.inference.schema import schema_filters
from groundup.inputs.tokenizer import Tokenizer
from groundup.nn.cache import Fresh
from groundup.nn.stack import Decoder, EncoderDecoder
from groundup.nn.step import Step
from groundup.peft.lora import LoRA
from groundup.peft.surgery import tensors

Messages = Sequence[Mapping[str, Any]]
Prompt = str | Messages


@dataclass(frozen=True)
class Model:
    """A network with its tokenizer, config and origin; see `groundup.load`.

    adapter   the name of the adapter in use, or None for the base alone
    methods   the settings of every adapter on the network, by name
    """

    network: Decoder | EncoderDecoder
    family: ModuleType
    config: FamilyConfig
    tokenizer: Tokenizer | None
    origin: Origin
    generation: dict[str, Any] = field(default_factory=dict)
    adapter: str | None = None
    methods: Mapping[str, LoRA] = field(default_factory=dict)
    notes: Sequence[str] = ()
    precision: str = "float32"

    # --- answers ------------------------------------------------------------------------------------------------------

    def generate(self, prompt: str | Sequence[str], **how: Any) -> str | list[str]:
        """What follows a prompt; a list of prompts gives a list, and so does n > 1.

        how: max_tokens, temperature, top_k, top_p, min_p, repetition_penalty, stop, seed, n, beams, `schema` (a JSON
        schema that the answer must follow), `filters` (callables `(ids, logits, row) -> logits`). What is left out
        comes from the model's generation_config.json; without one, the likeliest token is taken.
        Raises UsageError when prompt and answer do not fit the context.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        texts = [a.text for a in self._answers(prompts, **how)]
        return texts[0] if isinstance(prompt, str) and how.get("n", 1) == 1 else texts

    def chat(self, messages: Messages, **how: Any) -> str:
        """The next turn of a conversation [{"role": ..., "content": ...}, ...]; `how` as in `generate`."""
        return self._answers([messages], **how)[0].text

    def stream(self, prompt: Prompt, **how: Any) -> Iterator[str]:
        """The answer piece by piece, never half a character; `how` as in `generate`, for one answer."""
        return stream(self.network, self.encode(prompt), **self._engine(how))

    def answer(
        self,
        prompts: Sequence[Prompt],
        *,
        batch: int = 64,
        on_answer: Callable[[int, str], None] | None = None,
        **how: Any,
    ) -> list[str]:
        """Answers to many prompts or conversations, up to `batch` at once. Greedy text is as if each were alone.

        on_answer(index, text) is called as soon as one is done.
        """
        tell = None if on_answer is None else (lambda index, a: on_answer(index, a.text))
        return [a.text for a in self._answers(prompts, batch=batch, on_answer=tell, **how)]

    def _answers(
        self,
        prompts: Sequence[Prompt],
        *,
        batch: int = 64,
        on_answer: Callable[[int, Answer], None] | None = None,
        **how: Any,
    ) -> list[Answer]:
        ids = [self.encode(p) for p in prompts]
        return answer(self.network, ids, batch=batch, on_answer=on_answer, **self._engine(how))

    def _engine(self, how: dict[str, Any]) -> dict[str, Any]:
        """What every way of answering is told: the options, and what this model ends at, holds and uses."""
        sampling, filters = self._how(how)
        told: dict[str, Any] = {
            "sampling": sampling,
            "filters": filters,
            "tokenizer": self._words,
            "stop_ids": self.stop_ids,
            "context": self.context,
            "adapters": self.adapter,
        }
        if isinstance(self.network, EncoderDecoder):
            start = self.generation.get("decoder_start_token_id", self.config.extra.get("decoder_start_token_id", 0))
            told["decoder_start"] = start
        return told

    def _how(self, how: dict[str, Any]) -> tuple[Sampling, Any]:
        how = dict(how)
        schema, filters = how.pop("schema", None), list(how.pop("filters", ()))
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
            filters.append(schema_filters(self._words, schema, stop_ids=self.stop_ids))
        return Sampling(**(defaults | given)), filters

    # --- numbers ------------------------------------------------------------------------------------------------------

    def logits(self, text: str) -> Float[Tensor, "L V"]:
        """The score of every word after each token of `text`."""
        ids = self.encode(text)
        with torch.inference_mode():
            return self.network(torch.tensor(ids, device=self.device), self.step([len(ids)])).float()

    def probe(self, adapter: str, words: int = 64) -> Probe:
        """What an adapter changes on eight fixed ids, at some words: kept beside it and checked when it is loaded."""
        vocabulary = int(self.config.to_public()["vocab_size"])
        ids = [(7919 * (i + 1)) % vocabulary for i in range(8)]
        places = [(104729 * i) % vocabulary for i in range(words)]
        network = self.network
        with torch.inference_mode():
            found = []
            for name in (None, adapter):
                step = Step.of([len(ids)], Fresh(), adapters=name, device=self.device)
                x = torch.tensor(ids, device=self.device)
                if isinstance(network, EncoderDecoder):
                    memory = network.encode(x, step)
                    step = Step.of([len(ids)], Fresh(), adapters=name, memory=memory, device=self.device)
                found.append(network(x, step)[-1, places].float().tolist())
        return Probe(ids, places, found[0], found[1])

    # --- what it is ---------------------------------------------------------------------------------------------------

    def encode(self, prompt: Prompt) -> list[int]:
        """The ids of a text, or of a conversation up to where the answer begins."""
        return self._words.encode(prompt) if isinstance(prompt, str) else self._words.chat(prompt)

    def step(self, lengths: Sequence[int]) -> Step:
        """A call that stands alone, with the adapter in use."""
        return Step.of(lengths, Fresh(), adapters=self.adapter, device=self.device)

    def using(self, adapter: str | None) -> Model:
        """The same model with another of its adapters in use, or with none."""
        if adapter is not None and adapter not in self.methods:
            raise UsageError(f"no adapter {adapter!r} here; there are {', '.join(self.methods) or 'none'}")
        return replace(self, adapter=adapter)

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    @property
    def context(self) -> int | None:
        """The longest text in tokens, None where positions have no end."""
        return self.config.context

    @property
    def stop_ids(self) -> frozenset[int]:
        return self._words.stop_ids

    @property
    def _words(self) -> Tokenizer:
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
        facts["adapters"] = list(self.methods)
        facts["notes"] = list(self.notes)
        return facts


__all__ = ["Filter", "Messages", "Model", "Prompt"]
