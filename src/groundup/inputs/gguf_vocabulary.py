"""The tokenizer inside a GGUF file: vocabulary, merges and special tokens as metadata under llama.cpp's key names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from groundup.core.errors import GroundupError
from groundup.inputs.vocabulary import (
    LLAMA3,
    QWEN2,
    TEKKEN,
    Vocabulary,
    add_special,
    byte_fallback,
    byte_level,
    frame,
    merges_by_score,
    wordpiece,
)

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # of tokenizer.ggml.token_type
KEYS = {  # our names of the special tokens -> tokenizer.ggml.NAME_token_id, spelled as there
    "bos": "bos", "eos": "eos", "unk": "unknown", "sep": "seperator", "pad": "padding", "cls": "cls", "mask": "mask",
}  # fmt: skip
STOPS = ("eot_token_id", "eom_token_id")  # where llama.cpp ends a text, beside eos_token_id

# tokenizer.ggml.pre -> how text is cut into words. llama.cpp gives a name to each tokenizer.json that it has met.
_gpt2 = byte_level
_digits = partial(byte_level, single_digits=True)
_llama3 = partial(byte_level, pattern=LLAMA3, ignore_merges=True)
_qwen2 = partial(byte_level, pattern=QWEN2)
_tekken = partial(byte_level, pattern=TEKKEN, ignore_merges=True)
PRE_TOKENIZERS: dict[str, Callable[..., Backend]] = {
    "default": _gpt2, "gpt-2": _gpt2, "gpt2": _gpt2, "olmo": _gpt2, "mpt": _gpt2, "phi-2": _gpt2, "jais": _gpt2,
    "smollm": _digits, "starcoder": _digits, "refact": _digits, "command-r": _digits, "codeshell": _digits,
    "llama-bpe": _llama3, "llama3": _llama3, "llama-v3": _llama3,
    "qwen2": _qwen2, "deepseek-r1-qwen": _qwen2, "stablelm2": _qwen2,
    "tekken": _tekken,
}  # fmt: skip


def vocabulary_from_gguf(metadata: Mapping[str, Any]) -> Vocabulary:
    """The vocabulary of a GGUF file's `metadata` (keys such as "tokenizer.ggml.tokens").

    Byte-level models ("gpt2"), sentencepiece ones ("llama") and BERT's. Raises GroundupError, naming the key, for what
    is missing, of the wrong kind, or a way to cut text into words that is not known here: guessing gives other tokens.
    """
    kind = metadata.get("tokenizer.ggml.model")
    tokens = _strings(metadata, "tokens")
    if len(set(tokens)) != len(tokens):
        raise GroundupError("tokenizer.ggml.tokens names the same token twice.")
    types = metadata.get("tokenizer.ggml.token_type", [])
    if len(types) not in (0, len(tokens)):
        raise GroundupError(f"tokenizer.ggml.token_type has {len(types)} entries for {len(tokens)} tokens.")

    names = {}
    for name, key in KEYS.items():
        place = metadata.get(f"tokenizer.ggml.{key}_token_id", metadata.get(f"tokenizer.ggml.{name}_token_id"))
        if place is not None:
            if not 0 <= int(place) < len(tokens):
                raise GroundupError(f"tokenizer.ggml.{key}_token_id is {place}, but there are {len(tokens)} tokens.")
            names[f"{name}_token"] = tokens[int(place)]

    control = [token for token, type_ in zip(tokens, types, strict=False) if type_ == CONTROL]
    if kind == "gpt2":
        backend = _byte_level(metadata, tokens, types)
    elif kind == "llama":
        backend = _sentencepiece(metadata, tokens, types)
    elif kind == "bert":
        backend, names = _bert(tokens, set(control), names)
    else:
        raise GroundupError(f"This GGUF file's tokenizer is a {kind!r}; known are 'gpt2', 'llama' and 'bert'.")

    template = metadata.get("tokenizer.chat_template")
    if not isinstance(template, str | None):
        raise GroundupError("tokenizer.chat_template is no text.")
    add_special(backend, control)
    own = [token for token, type_ in zip(tokens, types, strict=False) if type_ == USER_DEFINED]
    backend.add_tokens([AddedToken(token, normalized=False, special=False) for token in own])
    if kind != "bert":
        add_bos = metadata.get("tokenizer.ggml.add_bos_token", kind == "llama")
        add_eos = metadata.get("tokenizer.ggml.add_eos_token", False)
        frame(backend, names.get("bos_token") if add_bos else None, names.get("eos_token") if add_eos else None)
    return Vocabulary(backend, names, template, "the GGUF file")


def _byte_level(metadata: Mapping[str, Any], tokens: Sequence[str], types: Sequence[int]) -> Backend:
    pre = metadata.get("tokenizer.ggml.pre", "default")
    if pre not in PRE_TOKENIZERS:
        raise GroundupError(
            f"This GGUF file cuts text into words as {pre!r} (tokenizer.ggml.pre), which is not known here. "
            f"Use the model's Hugging Face folder; known are {', '.join(sorted(PRE_TOKENIZERS))}."
        )
    merges = [tuple(merge.split(" ")) for merge in _strings(metadata, "merges")]
    if any(len(merge) != 2 for merge in merges):
        raise GroundupError("tokenizer.ggml.merges has an entry that is not two tokens with a space between them.")
    unused = {place for place, type_ in enumerate(types) if type_ == UNUSED}  # which fill the model's table up
    vocab = {token: place for place, token in enumerate(tokens) if place not in unused}
    unknown = next((part for merge in merges for part in (*merge, "".join(merge)) if part not in vocab), None)
    if unknown is not None:
        raise GroundupError(f"tokenizer.ggml.merges speaks of {unknown!r}, which is not in the vocabulary.")
    return PRE_TOKENIZERS[pre](vocab, merges)


def _sentencepiece(metadata: Mapping[str, Any], tokens: Sequence[str], types: Sequence[int]) -> Backend:
    architecture = metadata.get("general.architecture")
    if architecture != "llama":  # others spell spaces and rank their merges in ways of their own
        raise GroundupError(
            f"A sentencepiece tokenizer can be read from a GGUF file of a llama, not of {architecture!r}. "
            "Use the model's Hugging Face folder."
        )
    scores = metadata.get("tokenizer.ggml.scores", [])
    if len(scores) != len(tokens):
        raise GroundupError(f"tokenizer.ggml.scores has {len(scores)} entries for {len(tokens)} tokens.")
    vocab = {token: place for place, token in enumerate(tokens)}
    kinds = zip(tokens, types, strict=False)
    never = {token for token, type_ in kinds if type_ in (UNKNOWN, CONTROL, BYTE)}
    merges = merges_by_score(tokens, [float(score) for score in scores], never)
    return byte_fallback(vocab, merges, prefix_space=bool(metadata.get("tokenizer.ggml.add_space_prefix", True)))


def _bert(tokens: Sequence[str], control: set[str], names: dict[str, str]) -> tuple[Backend, dict[str, str]]:
    """llama.cpp marks what begins a word (`▁`), vocab.txt what goes on (`##`). Case is folded, as llama.cpp does."""

    def spelled(token: str) -> str:
        if token in control:
            return token
        return token[1:] if token.startswith("▁") else "##" + token

    names = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"} | {
        name: token for name, token in names.items() if name not in ("bos_token", "eos_token")
    }
    vocab = {spelled(token): place for place, token in enumerate(tokens)}
    if len(vocab) != len(tokens):
        raise GroundupError("tokenizer.ggml.tokens of this BERT names the same piece of a word twice.")
    backend = wordpiece(vocab, unk=names["unk_token"], cls=names["cls_token"], sep=names["sep_token"])
    return backend, {name: token for name, token in names.items() if token in vocab}


def _strings(metadata: Mapping[str, Any], key: str) -> list[str]:
    values = metadata.get(f"tokenizer.ggml.{key}")
    if not isinstance(values, list) or not values or not all(isinstance(value, str) for value in values):
        raise GroundupError(f"This GGUF file has no tokenizer: tokenizer.ggml.{key} is not a list of texts.")
    return values


def stops_from_gguf(metadata: Mapping[str, Any]) -> set[int]:
    """The ids that end a text, beside the end-of-text token."""
    found = (metadata.get(f"tokenizer.ggml.{key}") for key in STOPS)
    return {int(place) for place in found if place is not None}
