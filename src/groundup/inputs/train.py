"""A tokenizer learned from texts, by the `tokenizers` library, ready to be a model's own.

    bpe        pieces of bytes, merged where they often stand together (GPT-2): any text can be written
    wordpiece  pieces of words, `##` marks what goes on a word (BERT)
    word       whole words, divided by spaces
    character  single characters

Special tokens come first. Which there are follows from what the model shall learn (`SPECIALS`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, get_args

from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Backend

from groundup.core.errors import UsageError
from groundup.inputs.tokenizer import Tokenizer
from groundup.inputs.vocabulary import NAMES, Vocabulary, add_special, byte_level, frame, wordpiece

Kind = Literal["bpe", "wordpiece", "word", "character"]
UNKNOWN = "<unk>"
LETTERS = 1000  # different characters that a wordpiece vocabulary holds one by one, as in the library's trainer

SPECIALS: dict[str, dict[str, str]] = {
    "causal": {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"},  # GPT-2: one token between two texts
    "masked": {
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "mask_token": "[MASK]",
    },  # BERT: [CLS] text [SEP]
    "seq2seq": {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": UNKNOWN},  # T5: text </s>
}


def train_tokenizer(
    texts: Iterable[str],
    kind: str = "bpe",
    *,
    vocabulary: int = 8000,
    specials: str | Mapping[str, str] | None = None,
    lowercase: bool | None = None,
) -> Tokenizer:
    """A tokenizer of at most `vocabulary` tokens, learned from these texts; the same texts give the same tokenizer.

    specials   "causal", "masked" or "seq2seq" (`SPECIALS`), or names and texts of your own, such as {"eos_token": "</s>"};
               left out, "masked" for wordpiece and "causal" for the others. Every kind but bpe gets an unk_token
    lowercase  whether capitals become small first; left out, for wordpiece alone

    Around a text goes [CLS] and [SEP] where these are named, else a bos_token in front of it, or an eos_token behind it
    where there is no bos_token; nothing where both are one.
    Raises UsageError where there is no text, and for a vocabulary too small to hold what it has to.
    """
    if kind not in get_args(Kind):
        raise UsageError(f"tokenizer kind {kind!r}: there are {', '.join(get_args(Kind))}")
    names = _names(kind, specials)
    lowercase = kind == "wordpiece" if lowercase is None else lowercase
    counted = _Counted(texts)
    backend = _LEARNED[kind](counted, vocabulary, names, lowercase)
    if not counted.count:
        raise UsageError("there is no text to train a tokenizer on")
    size = backend.get_vocab_size()
    if size > vocabulary:
        raise UsageError(
            f"a vocabulary of {vocabulary} is too small: special tokens and single characters (or bytes) alone are "
            f"{size}; give at least {size}, better a few thousand"
        )
    add_special(backend, list(dict.fromkeys(names.values())))
    return Tokenizer(Vocabulary(backend, names, source="the trained tokenizer"))


def _names(kind: str, specials: str | Mapping[str, str] | None) -> dict[str, str]:
    chosen = specials or ("masked" if kind == "wordpiece" else "causal")
    if isinstance(chosen, str):
        if chosen not in SPECIALS:
            raise UsageError(f"specials {chosen!r}: there are {', '.join(SPECIALS)}, or give names and texts")
        chosen = SPECIALS[chosen]
    odd = [name for name, token in chosen.items() if name not in NAMES or not token]
    if odd:
        raise UsageError(f"no special token is called {', '.join(odd)}; there are {', '.join(NAMES)}")
    return dict(chosen) if kind == "bpe" or "unk_token" in chosen else {**chosen, "unk_token": UNKNOWN}


class _Counted:
    """Texts that are counted as they go by."""

    def __init__(self, texts: Iterable[str]):
        self.texts, self.count = texts, 0

    def __iter__(self) -> Iterator[str]:
        for text in self.texts:
            self.count += 1
            yield text


def _bpe(texts: Iterable[str], size: int, names: Mapping[str, str], lowercase: bool) -> Backend:
    backend = byte_level({}, [])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return _learned(backend, texts, trainers.BpeTrainer, size, names, lowercase, initial_alphabet=alphabet)


def _wordpiece(texts: Iterable[str], size: int, names: Mapping[str, str], lowercase: bool) -> Backend:
    cased: dict[str, Any] = {"lowercase": lowercase, "unk": names["unk_token"]}
    backend, kept = wordpiece({}, **cased), list(texts)
    begin, on = _letters(kept, backend)
    # The library numbers the letters that go on a word as a hash table gives them, and of equal counts the lower number
    # is merged first: with its own order, the same texts would give another vocabulary each time.
    named = [*dict.fromkeys(names.values()), *(f"##{letter}" for letter in on)]
    alphabet = sorted({*begin, *on})
    trainer = trainers.WordPieceTrainer(
        vocab_size=size,
        special_tokens=named,
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    backend.train_from_iterator(kept, trainer)
    return _framed(wordpiece(backend.get_vocab(), **cased), names)


def _letters(texts: Iterable[str], backend: Backend) -> tuple[list[str], list[str]]:
    """The letters that begin a word, and those that go on one; rare ones beyond `LETTERS` are left out."""
    words: Counter[str] = Counter()
    for text in texts:
        words.update(word for word, _ in backend.pre_tokenizer.pre_tokenize_str(backend.normalizer.normalize_str(text)))
    counts: Counter[str] = Counter()
    for word, count in words.items():
        for letter in word:
            counts[letter] += count
    kept = set(sorted(counts, key=lambda letter: (-counts[letter], letter))[:LETTERS])
    begin, on = {word[0] for word in words}, {letter for word in words for letter in word[1:]}
    return sorted(begin & kept), sorted(on & kept)


def _word(texts: Iterable[str], size: int, names: Mapping[str, str], lowercase: bool) -> Backend:
    backend = Backend(models.WordLevel({}, unk_token=names["unk_token"]))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return _learned(backend, texts, trainers.WordLevelTrainer, size, names, lowercase)


def _character(texts: Iterable[str], size: int, names: Mapping[str, str], lowercase: bool) -> Backend:
    backend = Backend(models.WordLevel({}, unk_token=names["unk_token"]))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    backend.decoder = decoders.Fuse()
    return _learned(backend, texts, trainers.WordLevelTrainer, size, names, lowercase)


def _learned(
    backend: Backend,
    texts: Iterable[str],
    trainer: Callable[..., Any],
    size: int,
    names: Mapping[str, str],
    lowercase: bool,
    **how: Any,
) -> Backend:
    if lowercase:
        backend.normalizer = normalizers.Lowercase()
    backend.train_from_iterator(texts, _trainer(trainer, size, names, **how))
    return _framed(backend, names)


def _trainer(trainer: Callable[..., Any], size: int, names: Mapping[str, str], **how: Any) -> Any:
    tokens = list(dict.fromkeys(names.values()))
    return trainer(vocab_size=size, special_tokens=tokens, show_progress=False, **how)


def _framed(backend: Backend, names: Mapping[str, str]) -> Backend:
    """Let `encode` put around a text what these special tokens are for."""
    bos, eos = names.get("bos_token"), names.get("eos_token")
    if "cls_token" in names and "sep_token" in names:
        cls, sep = names["cls_token"], names["sep_token"]
        backend.post_processor = processors.TemplateProcessing(
            single=f"{cls}:0 $A:0 {sep}:0",
            pair=f"{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1",
            special_tokens=[(token, backend.token_to_id(token)) for token in (cls, sep)],
        )
    elif bos != eos:
        frame(backend, bos, None if bos else eos)
    return backend


_LEARNED: dict[str, Callable[..., Backend]] = {
    "bpe": _bpe,
    "wordpiece": _wordpiece,
    "word": _word,
    "character": _character,
}
