"""The tokenizer in a Hugging Face folder: tokenizer.json, or the older vocab.txt, or vocab.json with merges.txt."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, normalizers, processors
from tokenizers import Tokenizer as Backend

from groundup.core.errors import GroundupError
from groundup.core.files import read_json
from groundup.inputs.vocabulary import NAMES, QWEN2, Vocabulary, add_special, byte_level, frame, wordpiece

LARGEST = 256 * 1024 * 1024  # bytes of a vocabulary file; Gemma's, one of the largest, has 34 million
END = "<|endoftext|>"
BERT = {name: f"[{name[:-6].upper()}]" for name in NAMES[2:]}
GPT2 = {"bos_token": END, "eos_token": END, "unk_token": END}
ROBERTA = {
    "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "sep_token": "</s>", "pad_token": "<pad>",
    "cls_token": "<s>", "mask_token": "<mask>",
}  # fmt: skip
# The first files name no special tokens, since each kind of tokenizer has its own; nor do they name their kind.
USUAL: dict[str, dict[str, str]] = {
    **dict.fromkeys(("BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer", "ConvBertTokenizer"), BERT),
    "GPT2Tokenizer": GPT2,
    "RobertaTokenizer": ROBERTA,
}
KINDS = {"bert": "BertTokenizer", "distilbert": "BertTokenizer", "gpt2": "GPT2Tokenizer", "roberta": "RobertaTokenizer"}


def vocabulary_from_folder(folder: Path) -> Vocabulary:
    """The vocabulary, special tokens and chat template of `folder`.

    Raises GroundupError, naming the file, where one is missing, broken, or of a kind that is not read here.
    """
    config = _json(folder / "tokenizer_config.json")
    kind = _kind(folder, config)
    given = _names(folder, config)
    names = {**USUAL.get(kind, {}), **given}
    if (folder / "tokenizer.json").exists():
        backend = _backend(folder / "tokenizer.json")
    elif (folder / "vocab.txt").exists():
        backend = _wordpiece(folder, config, kind, names)
    elif (folder / "vocab.json").exists() and (folder / "merges.txt").exists():
        backend = _byte_level(folder, config, kind, names)
    elif (folder / "tokenizer.model").exists():
        raise GroundupError(
            f"{folder} has its tokenizer as tokenizer.model only, which is not read here. transformers turns it into a "
            "tokenizer.json: AutoTokenizer.from_pretrained(folder).save_pretrained(folder)."
        )
    else:
        raise GroundupError(f"{folder} has no tokenizer: no tokenizer.json, vocab.txt, or vocab.json with merges.txt.")

    _add_tokens(backend, folder, config)
    present = {name: token for name, token in names.items() if token and backend.token_to_id(token) is not None}
    for name in ("bos_token", "eos_token"):
        if given.get(name) and name not in present:
            raise GroundupError(f"The {name} of {folder} is {given[name]!r}, which its vocabulary does not have.")
    extra = config.get("additional_special_tokens") or config.get("extra_special_tokens") or []
    more = [_content(token) for token in (extra.values() if isinstance(extra, Mapping) else extra)]
    special = [token for token in (*present.values(), *more) if token and backend.token_to_id(token) is not None]
    add_special(backend, list(dict.fromkeys(special)))
    if not (folder / "tokenizer.json").exists() and ("add_bos_token" in config or "add_eos_token" in config):
        bos = present.get("bos_token") if config.get("add_bos_token") else None
        frame(backend, bos, present.get("eos_token") if config.get("add_eos_token") else None)
    return Vocabulary(backend, present, _template(folder, config), str(folder))


def read_backend(text: str, source: str) -> Backend:
    """A tokenizer.json's `text` as a tokenizer. Padding and cutting are our business: its wishes are dropped."""
    try:
        backend = Backend.from_str(text)
    except BaseException as error:  # a broken file may end in a panic of the library, which is no Exception
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise
        reason = " ".join(str(error).split())[:200]
        raise GroundupError(f"{source} is not a tokenizer.json that can be read: {reason}") from None
    backend.no_padding()
    backend.no_truncation()
    return backend


def _backend(path: Path) -> Backend:
    return read_backend(_text(path), str(path))


def _text(path: Path) -> str:
    if (size := path.stat().st_size) > LARGEST:
        raise GroundupError(f"{path} has {size} bytes; {LARGEST} is the limit for a tokenizer's file.")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise GroundupError(f"{path} is not UTF-8 text (byte {error.start}).") from None


def _json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    value = read_json(path)
    if not isinstance(value, dict):
        raise GroundupError(f"{path} is not a JSON object.")
    return value


def _content(token: Any) -> str | None:
    """A special token is written as its text, or as a dict that has it as "content"."""
    content = token.get("content") if isinstance(token, Mapping) else token
    return content if isinstance(content, str) and content else None


def _kind(folder: Path, config: Mapping[str, Any]) -> str:
    """What transformers calls this kind of tokenizer; "" where the folder does not say."""
    if config.get("tokenizer_class"):
        return str(config["tokenizer_class"]).removesuffix("Fast")
    kind = KINDS.get(str(_json(folder / "config.json").get("model_type")), "")
    if kind or (folder / "tokenizer.json").exists():
        return kind
    return "BertTokenizer" if (folder / "vocab.txt").exists() else "GPT2Tokenizer"


def _names(folder: Path, config: Mapping[str, Any]) -> dict[str, str | None]:
    """The special tokens that the folder names; None for one that it says it has not."""
    fallback = _json(folder / "special_tokens_map.json")
    said = {
        **{name: fallback[name] for name in NAMES if name in fallback},
        **{n: config[n] for n in NAMES if n in config},
    }
    return {name: _content(token) for name, token in said.items()}


def _template(folder: Path, config: Mapping[str, Any]) -> str | None:
    if (folder / "chat_template.jinja").exists():
        return _text(folder / "chat_template.jinja")
    template = config.get("chat_template")
    if isinstance(template, list):  # several, by name
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, Mapping)}
        template = named.get("default")
    if template is not None and not isinstance(template, str):
        raise GroundupError(f"The chat_template in {folder / 'tokenizer_config.json'} is no text.")
    return template


def _add_tokens(backend: Backend, folder: Path, config: Mapping[str, Any]) -> None:
    """Tokens beside the vocabulary: `added_tokens_decoder` (by id, with how each is matched), or added_tokens.json."""
    flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
    wanted: dict[int, AddedToken] = {}
    for older, place in _json(folder / "added_tokens.json").items():
        wanted[int(place)] = AddedToken(older, special=False)
    for key, entry in (config.get("added_tokens_decoder") or {}).items():
        content = _content(entry)
        if content is None or not key.isdecimal():
            raise GroundupError(f"{folder / 'tokenizer_config.json'}: added_tokens_decoder has a broken entry {key!r}.")
        wanted[int(key)] = AddedToken(content, **{flag: bool(entry[flag]) for flag in flags if flag in entry})
    known = backend.get_added_tokens_decoder()
    for place, token in sorted(wanted.items()):
        if place in known and known[place].content == token.content:
            continue
        (backend.add_special_tokens if token.special else backend.add_tokens)([token])
        if backend.token_to_id(token.content) != place:
            raise GroundupError(
                f"{folder} wants the token {token.content!r} at {place}, its vocabulary has it at "
                f"{backend.token_to_id(token.content)}."
            )


def _wordpiece(folder: Path, config: Mapping[str, Any], kind: str, names: Mapping[str, str | None]) -> Backend:
    if USUAL.get(kind) is not BERT:
        raise GroundupError(f"{folder} has a vocab.txt for a {kind}, which needs a tokenizer.json here.")
    lines = _text(folder / "vocab.txt").removesuffix("\n").split("\n")
    vocab = {line.rstrip("\r"): place for place, line in enumerate(lines)}
    if len(vocab) != len(lines):
        raise GroundupError(f"{folder / 'vocab.txt'} has {len(lines)} lines, {len(vocab)} of them different.")
    unk, cls, sep = (names[f"{name}_token"] or BERT[f"{name}_token"] for name in ("unk", "cls", "sep"))
    return wordpiece(
        vocab, lowercase=config.get("do_lower_case", True), strip_accents=config.get("strip_accents"),
        chinese_characters=config.get("tokenize_chinese_chars", True), unk=unk, cls=cls, sep=sep,
    )  # fmt: skip


def _byte_level(folder: Path, config: Mapping[str, Any], kind: str, names: Mapping[str, str | None]) -> Backend:
    if kind not in ("GPT2Tokenizer", "RobertaTokenizer", "Qwen2Tokenizer"):
        raise GroundupError(f"{folder} has a vocab.json for a {kind}, which needs a tokenizer.json here.")
    lines = _text(folder / "merges.txt").split("\n")
    merges = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or (number == 1 and line.startswith("#version")):
            continue
        halves = line.rstrip("\r").split(" ")
        if len(halves) != 2:
            raise GroundupError(f"{folder / 'merges.txt'}, line {number}, is not two tokens with a space between them.")
        merges.append((halves[0], halves[1]))
    vocab = _json(folder / "vocab.json")
    if not all(type(place) is int and place >= 0 for place in vocab.values()):
        raise GroundupError(f"{folder / 'vocab.json'} is not a list of tokens with their numbers.")
    unknown = next((part for merge in merges for part in (*merge, "".join(merge)) if part not in vocab), None)
    if unknown is not None:
        raise GroundupError(f"{folder / 'merges.txt'} speaks of {unknown!r}, which vocab.json does not have.")
    pattern = QWEN2 if kind == "Qwen2Tokenizer" else None
    backend = byte_level(vocab, merges, pattern=pattern, prefix_space=bool(config.get("add_prefix_space", False)))
    if kind == "Qwen2Tokenizer":
        backend.normalizer = normalizers.NFC()
    if kind == "RobertaTokenizer":
        _frame_roberta(backend, folder, names)
    return backend


def _frame_roberta(backend: Backend, folder: Path, names: Mapping[str, str | None]) -> None:
    """<s> text </s>, and a mask that swallows the space before it, as its pieces of words hold theirs."""
    cls, sep, mask = (names[name] or ROBERTA[name] for name in ("cls_token", "sep_token", "mask_token"))
    ids = {token: backend.token_to_id(token) for token in (cls, sep, mask)}
    absent = next((token for token, place in ids.items() if place is None), None)
    if absent is not None:
        raise GroundupError(f"{folder / 'vocab.json'} lacks {absent!r}, which stands around every text of a RoBERTa.")
    backend.add_special_tokens([AddedToken(mask, lstrip=True, normalized=False, special=True)])
    backend.post_processor = processors.TemplateProcessing(
        single=f"{cls} $A {sep}",
        pair=f"{cls} $A {sep} {sep} $B {sep}",
        special_tokens=[(t, ids[t]) for t in {cls, sep}],
    )
