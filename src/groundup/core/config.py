"""Strict configs: every key of a public `config.json` is read by a family, or named as one that changes nothing.

A family subclasses `FamilyConfig`; its fields are the public keys. A key that is neither a field nor ignorable stops
the load, since a setting that silently has no effect is worse than a file that is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, PrivateAttr, ValidationError, model_validator

from groundup.core.errors import UsageError
from groundup.core.labels import Labels, architecture

C = TypeVar("C", bound="FamilyConfig")


class _Any:
    def __contains__(self, value: object) -> bool:
        return True

    def __repr__(self) -> str:
        return "ANY"


ANY: Any = _Any()

_CHANGES_NOTHING = """
    architectures transformers_version transformers.js_config _name_or_path model_name auto_map tokenizer_class prefix
    dtype torchscript use_bfloat16 attn_implementation _attn_implementation _attn_implementation_autoset
    use_cache return_dict output_attentions output_hidden_states output_past output_scores gradient_checkpointing
    chunk_size_feed_forward pretraining_tp tf_legacy_loss initializer_range initializer_factor init_std
    id2label label2id num_labels _num_labels problem_type finetuning_task task_specific_params classifier_dropout
    bos_token_id eos_token_id pad_token_id sep_token_id unk_token_id decoder_start_token_id
    forced_bos_token_id forced_eos_token_id bad_words_ids suppress_tokens begin_suppress_tokens
    max_length min_length do_sample early_stopping num_beams num_beam_groups diversity_penalty
    temperature top_k top_p typical_p repetition_penalty length_penalty no_repeat_ngram_size
    encoder_no_repeat_ngram_size num_return_sequences return_dict_in_generate remove_invalid_values
    exponential_decay_length_penalty
"""

# Keys of every Hugging Face config that change no number in evaluation: where the file comes from, how it is run, how
# training began, heads for labels, token ids and settings for whoever generates. Below, those that have to be off.
COMMON_IGNORED: dict[str, Any] = dict.fromkeys(_CHANGES_NOTHING.split(), ANY) | {
    "pruned_heads": ({}, None),
    "add_cross_attention": (False, None),
    "cross_attention_hidden_size": (None,),
    "is_decoder": (False, None),
    "is_encoder_decoder": (False, None),
    "tie_encoder_decoder": (False, None),
}


class FamilyConfig(BaseModel):
    """The settings of one family, from and to the public `config.json`.

    IGNORED        keys that change nothing, with the values they may have (`ANY`, or a tuple)
    SPELLINGS      old or other names of a key -> the field
    MAY_BE_ZERO    sizes that may be 0
    ARCHITECTURES  what transformers calls the networks that `build` makes, the exported one first
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, protected_namespaces=())

    IGNORED: ClassVar[Mapping[str, Any]] = {}
    SPELLINGS: ClassVar[Mapping[str, str]] = {}
    MAY_BE_ZERO: ClassVar[tuple[str, ...]] = ()
    ARCHITECTURES: ClassVar[tuple[str, ...]] = ()

    _extra: dict[str, Any] = PrivateAttr(default_factory=dict)

    @property
    def context(self) -> int | None:
        """The longest row in tokens; None where positions have no end."""
        return None

    @classmethod
    def family(cls) -> str:
        """The family's public name, such as "llama"."""
        return str(cls.model_fields["model_type"].default)

    @property
    def extra(self) -> dict[str, Any]:
        """The ignored keys as the file had them (token ids among them); no part of equality."""
        return self._extra

    @property
    def labels(self) -> Labels | None:
        """The labels of the head that this network ends in, None where it has none for labels."""
        return Labels.from_public(self._extra)

    def with_labels(self: C, labels: Labels) -> C:
        """The same config for a network that ends in a head for these labels."""
        told = ("id2label", "label2id", "num_labels", "_num_labels", "problem_type", "architectures")
        made = self.model_copy()
        made._extra = {k: v for k, v in self._extra.items() if k not in told}
        made._extra |= {**labels.public(), "architectures": [architecture(self.ARCHITECTURES[0], labels)]}
        return made

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self)) and self.model_dump() == other.model_dump()

    def __hash__(self) -> int:
        return hash(self.model_dump_json())

    @model_validator(mode="after")
    def _numbers_are_sizes(self: C) -> C:
        for name, value in self:
            least = 0 if name.endswith("_id") or name in self.MAY_BE_ZERO else 1
            if isinstance(value, int) and not isinstance(value, bool) and value < least:
                raise ValueError(f"{name} = {value} should be at least {least}")
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{name} = {value} should be a finite number")
        return self

    @classmethod
    def prepare(cls, public: dict[str, Any]) -> dict[str, Any]:
        """A family's place to fold several public keys into one field before they are read."""
        return public

    @classmethod
    def from_public(cls: type[C], public: Mapping[str, Any]) -> C:
        """Read a `config.json`.

        Raises UsageError for a key that nothing reads, for an ignored key with a value that would change the numbers,
        for two spellings of one key that disagree, and for a value of the wrong type or below 1.
        """
        family = cls.model_fields["model_type"].default
        known: dict[str, Any] = {}
        extra: dict[str, Any] = {}
        unknown: list[str] = []
        for key, value in cls._spelled(cls.prepare(dict(public))).items():
            if key in cls.model_fields:
                known[key] = value
            elif key in (ignorable := {**COMMON_IGNORED, **cls.IGNORED}):
                if value not in ignorable[key]:
                    raise UsageError(
                        f"config.json: {key} = {value!r} changes what {family} computes, and is not supported; "
                        f"supported: {', '.join(map(repr, ignorable[key]))}"
                    )
                extra[key] = value
            else:
                unknown.append(key)
        if unknown:
            raise UsageError(
                f"config.json: {family} has no key {', '.join(sorted(unknown))}; "
                "remove it if it is a note, else this model needs a part that is not here"
            )
        try:
            config = cls(**known)
        except ValidationError as e:
            raise UsageError(f"config.json: {_first_fault(e)}") from None
        config._extra.update(extra)
        _ = config.labels  # refused here, where they cannot be read
        return config

    @classmethod
    def _spelled(cls, public: Mapping[str, Any]) -> dict[str, Any]:
        """Every key by its present name."""
        names = {"torch_dtype": "dtype", **cls.SPELLINGS}
        out: dict[str, Any] = {}
        for key, value in public.items():
            name = names.get(key, key)
            if name in out and out[name] != value:
                raise UsageError(f"config.json: {name} and another spelling of it disagree: {out[name]!r}, {value!r}")
            out[name] = value
        return out

    def to_public(self) -> dict[str, Any]:
        """The `config.json` that transformers reads."""
        labels = self.labels
        name = self.ARCHITECTURES[:1] if labels is None else [architecture(self.ARCHITECTURES[0], labels)]
        return {**self._extra, **self.model_dump(), "architectures": list(name)}


def _first_fault(e: ValidationError) -> str:
    first = e.errors()[0]
    message = first["msg"].removeprefix("Value error, ").removeprefix("Input ")
    place = ".".join(map(str, first["loc"]))
    return f"{place} = {first['input']!r} {message}" if place else message
