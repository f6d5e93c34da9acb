"""Strict configs: every key of a public `config.json` is read by a family, or named as one that changes nothing.

A family subclasses `FamilyConfig`; its fields are the public keys. A key that is neither a field nor ignorable stops the
load, since a setting that silently has no effect is worse than a file that is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, PrivateAttr, ValidationError

from groundup.core.errors import UsageError


class _Any:
    def __contains__(self, value: object) -> bool:
        return True

    def __repr__(self) -> str:
        return "ANY"


ANY: Any = _Any()

# Keys of every Hugging Face config that change no number in evaluation. Token ids are data for whoever generates.
COMMON_IGNORED: dict[str, Any] = dict.fromkeys(
    """
    _name_or_path architectures transformers_version transformers.js_config auto_map dtype use_cache return_dict
    output_attentions output_hidden_states output_past torchscript use_bfloat16 bos_token_id eos_token_id pad_token_id
    sep_token_id decoder_start_token_id unk_token_id id2label label2id num_labels problem_type task_specific_params
    gradient_checkpointing initializer_range initializer_factor init_std prefix finetuning_task tokenizer_class
    chunk_size_feed_forward max_length min_length do_sample early_stopping num_beams num_beam_groups diversity_penalty
    temperature top_k top_p typical_p repetition_penalty length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size
    bad_words_ids num_return_sequences output_scores return_dict_in_generate forced_bos_token_id forced_eos_token_id
    remove_invalid_values exponential_decay_length_penalty suppress_tokens begin_suppress_tokens tf_legacy_loss
    pretraining_tp attn_implementation _attn_implementation quantization_config_note is_encoder_decoder
    """.split(),
    ANY,
) | {
    "pruned_heads": ({}, None),
    "add_cross_attention": (False, None),
    "cross_attention_hidden_size": (None,),
    "is_decoder": (False, None),
    "tie_encoder_decoder": (False, None),
}


class FamilyConfig(BaseModel):
    """The settings of one family, from and to the public `config.json`.

    IGNORED        keys that change nothing, with the values they may have (`ANY`, or a tuple)
    SPELLINGS      old or other names of a key -> the field
    ARCHITECTURES  what transformers calls the networks that `build` makes, the exported one first
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, protected_namespaces=())

    IGNORED: ClassVar[Mapping[str, Any]] = {}
    SPELLINGS: ClassVar[Mapping[str, str]] = {}
    ARCHITECTURES: ClassVar[tuple[str, ...]] = ()

    _extra: dict[str, Any] = PrivateAttr(default_factory=dict)

    @property
    def extra(self) -> dict[str, Any]:
        """The ignored keys as the file had them (token ids among them); no part of equality."""
        return self._extra

    @classmethod
    def prepare(cls, public: dict[str, Any]) -> dict[str, Any]:
        """A family's place to fold several public keys into one field before they are read."""
        return public

    @classmethod
    def from_public(cls, public: Mapping[str, Any]) -> Self:
        """Read a `config.json`.

        Raises UsageError for a key that nothing reads, for an ignored key with a value that would change the numbers,
        and for a value of the wrong type.
        """
        keys = cls.prepare({{"torch_dtype": "dtype"}.get(k, k): v for k, v in public.items()})
        keys = {cls.SPELLINGS.get(k, k): v for k, v in keys.items()}
        ignorable = {**COMMON_IGNORED, **cls.IGNORED}
        family = cls.model_fields["model_type"].default
        known, extra, unknown = {}, {}, []
        for key, value in keys.items():
            if key in cls.model_fields:
                known[key] = value
            elif key in ignorable:
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
            first = e.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise UsageError(f"config.json: {place} = {first.get('input')!r}: {first['msg'].lower()}") from None
        config._extra.update(extra)
        return config

    def to_public(self) -> dict[str, Any]:
        """The `config.json` that transformers reads."""
        return {**self._extra, **self.model_dump(), "architectures": list(self.ARCHITECTURES[:1])}
