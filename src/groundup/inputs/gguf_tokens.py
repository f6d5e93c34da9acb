"""A byte-level tokenizer as the metadata of a GGUF file: the way back from `gguf_vocabulary`.

GGUF names the way in which text is cut into words (`tokenizer.ggml.pre`) and has no room for a description of it, so only a
tokenizer that cuts as one of the known names does can be written; anything else would give other tokens in silence.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from tokenizers import Tokenizer as Backend

from groundup.core.errors import UsageError
from groundup.inputs.gguf_vocabulary import CONTROL, KEYS, NORMAL, PRE_TOKENIZERS, STOPS, UNUSED, USER_DEFINED

WRITTEN = ("gpt-2", "smollm", "llama-bpe", "qwen2", "tekken")  # one name for each way that is known
COMPOSED = "qwen2"  # whose text is composed first (NFC); llama.cpp leaves that out


def metadata_of(
    content: Mapping[str, Any],
    backend: Backend,
    names: Mapping[str, str],
    template: str | None,
    stops: Iterable[int],
    size: int,
) -> dict[str, Any]:
    """The keys `tokenizer.*` of a tokenizer.

    content  its tokenizer.json
    names    the special tokens by their public names
    stops    the ids that end a text
    size     of the model's vocabulary; ids that no token has are filled with unused ones

    Raises UsageError, naming it, for what GGUF or llama.cpp cannot say.
    """
    pre = _pre(content)
    ids = content["model"]["vocab"] | {added["content"]: added["id"] for added in content["added_tokens"]}
    if max(ids.values()) >= size:
        raise UsageError(f"the tokenizer has the id {max(ids.values())}, the model only {size} tokens")
    tokens, types = [f"[PAD{place}]" for place in range(size)], [UNUSED] * size
    for token, place in ids.items():
        tokens[place], types[place] = token, NORMAL
    for added in content["added_tokens"]:
        odd = [flag for flag in ("lstrip", "rstrip", "single_word") if added[flag]]
        if odd:
            raise _unsaid(f"{odd[0]} of its token {added['content']!r}")
        types[added["id"]] = CONTROL if added["special"] else USER_DEFINED
    found: dict[str, Any] = {
        "model": "gpt2",
        "pre": pre,
        "tokens": tokens,
        "token_type": types,
        "merges": [" ".join(pair) for pair in content["model"]["merges"]],
    }
    found |= {f"{KEYS[name]}_token_id": ids[names[f"{name}_token"]] for name in KEYS if f"{name}_token" in names}
    found |= _stops(sorted(stops), found.get("eos_token_id"))
    found |= _frame(backend, found) | {"add_space_prefix": False}
    told = {f"tokenizer.ggml.{key}": value for key, value in found.items()}
    return told if template is None else told | {"tokenizer.chat_template": template}


def _pre(content: Mapping[str, Any]) -> str:
    """The name of the way in which it cuts text into words."""
    model = content["model"]
    if model["type"] != "BPE" or (content["decoder"] or {}).get("type") != "ByteLevel":
        raise _unsaid(f"a tokenizer of kind {model['type']}, without bytes as letters")
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"):
        if model.get(key):
            raise _unsaid(f"{key} = {model[key]!r}")
    ways = {_way(PRE_TOKENIZERS[name]({}, []).to_str()): name for name in WRITTEN}
    pre = ways.get(_way(content))
    if pre is None:
        raise _unsaid(f"the way in which it cuts text into words; known are {', '.join(WRITTEN)}")
    normalizer = (content["normalizer"] or {}).get("type")
    if normalizer not in ((None, "NFC") if pre == COMPOSED else (None,)):
        raise _unsaid(f"its normalizer {normalizer}")
    return pre


def _way(content: str | Mapping[str, Any]) -> str:
    """All that decides how text is cut into words, comparable."""
    told = json.loads(content) if isinstance(content, str) else content
    steps = told["pre_tokenizer"] or {}
    steps = steps["pretokenizers"] if steps.get("type") == "Sequence" else [steps]
    # trim_offsets moves the places of tokens in the text, not the tokens
    plain = [{key: value for key, value in step.items() if key != "trim_offsets"} for step in steps]
    return json.dumps([plain, bool(told["model"].get("ignore_merges"))], sort_keys=True)


def _stops(stops: list[int], eos: int | None) -> dict[str, int]:
    more = [place for place in stops if place != eos]
    if len(more) > len(STOPS):
        raise _unsaid(f"its {len(stops)} ids that end a text ({', '.join(map(str, stops))}), but three")
    return dict(zip(STOPS, more, strict=False))


def _frame(backend: Backend, found: Mapping[str, Any]) -> dict[str, bool]:
    """Whether a BOS stands before a text and an EOS after it."""
    bare, framed = (backend.encode("a", add_special_tokens=special).ids for special in (False, True))
    bos, eos = found.get("bos_token_id"), found.get("eos_token_id")
    for front in (False, True):
        for back in (False, True):
            if framed == [*([bos] if front else []), *bare, *([eos] if back else [])]:
                return {"add_bos_token": front, "add_eos_token": back}
    raise _unsaid("what it puts around a text, other than its bos_token and its eos_token")


def _unsaid(what: str) -> UsageError:
    return UsageError(f"a .gguf cannot say {what} of this tokenizer: save the model as a folder")
