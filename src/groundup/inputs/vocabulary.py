"""A tokenizer's data, however it came, put into one form: the `tokenizers` object and what belongs around it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend

# What Hugging Face's files call the special tokens; templates know them by the same names.
NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")

# How a vocabulary's text was cut into words before its merges were learned. The patterns are the models' own, from the
# tokenizer.json they were published with; with another one the same text gives other tokens.
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3 = QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class Vocabulary:
    """What a `Tokenizer` is made of.

    `names`: the special tokens by their public names (`NAMES`), such as {"bos_token": "<s>"}; `template`: the chat
    template; `source`: what to call it in an error.
    """

    backend: Backend
    names: Mapping[str, str] = field(default_factory=dict)
    template: str | None = None
    source: str = "the tokenizer"


def byte_level(
    vocab: Mapping[str, int],
    merges: Iterable[tuple[str, str]],
    *,
    pattern: str | None = None,
    single_digits: bool = False,
    prefix_space: bool = False,
    ignore_merges: bool = False,
) -> Backend:
    """Byte-pair encoding over bytes (GPT-2, Radford et al. 2019): any text is made of its 256 letters.

    `pattern`: how to cut text into words (None: GPT-2's own); `single_digits`: every digit is a word, before the
    pattern is looked at; `ignore_merges`: a whole word of the vocabulary is taken as it is (Llama 3).
    """
    backend = Backend(models.BPE(vocab=dict(vocab), merges=list(merges), ignore_merges=ignore_merges))
    steps: list[pre_tokenizers.PreTokenizer] = []
    if single_digits:
        steps.append(pre_tokenizers.Digits(individual_digits=True))
    if pattern is not None:
        steps.append(pre_tokenizers.Split(Regex(pattern), behavior="isolated"))
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=prefix_space, use_regex=pattern is None))
    backend.pre_tokenizer = pre_tokenizers.Sequence(steps) if len(steps) > 1 else steps[0]
    backend.decoder = decoders.ByteLevel()
    return backend


def byte_fallback(vocab: Mapping[str, int], merges: Iterable[tuple[str, str]], *, prefix_space: bool = True) -> Backend:
    """Byte-pair encoding over characters, `▁` for a space, as sentencepiece has it (Llama 2); bytes where all fails.

    `prefix_space`: the text gets a space in front of its first word.
    """
    backend = Backend(models.BPE(vocab=dict(vocab), merges=list(merges), fuse_unk=True, byte_fallback=True))
    scheme = "first" if prefix_space else "never"
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=scheme, split=False)
    steps: list[decoders.Decoder] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if prefix_space:
        steps.append(decoders.Strip(content=" ", left=1))
    backend.decoder = decoders.Sequence(steps)
    return backend


def wordpiece(
    vocab: Mapping[str, int],
    *,
    lowercase: bool = True,
    strip_accents: bool | None = None,
    chinese_characters: bool = True,
    unk: str = "[UNK]",
    cls: str = "[CLS]",
    sep: str = "[SEP]",
) -> Backend:
    """BERT's WordPiece (Devlin et al. 2018): words are cut at spaces and signs, `##` marks what goes on a word."""
    backend = Backend(models.WordPiece(vocab=dict(vocab), unk_token=unk))
    backend.normalizer = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=chinese_characters, strip_accents=strip_accents, lowercase=lowercase
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    if cls in vocab and sep in vocab:
        backend.post_processor = processors.TemplateProcessing(
            single=f"{cls}:0 $A:0 {sep}:0",
            pair=f"{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1",
            special_tokens=[(cls, vocab[cls]), (sep, vocab[sep])],
        )
    return backend


def frame(backend: Backend, bos: str | None, eos: str | None) -> None:
    """Lets `encode` put `bos` before a text and `eos` after it (None: nothing)."""
    tokens = [token for token in (bos, eos) if token is not None]
    single = " ".join([*([f"{bos}:0"] if bos else []), "$A:0", *([f"{eos}:0"] if eos else [])])
    pair = " ".join([single, *([f"{bos}:1"] if bos else []), "$B:1", *([f"{eos}:1"] if eos else [])])
    special = [(token, backend.token_to_id(token)) for token in dict.fromkeys(tokens)]
    backend.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=special)


def add_special(backend: Backend, tokens: Sequence[str]) -> None:
    """Makes `tokens`, which the vocabulary has, special: found in a text as a whole, left out when it is decoded."""
    present = backend.get_added_tokens_decoder().values()
    known = {token.content: token for token in present}
    backend.add_special_tokens([known.get(t) or AddedToken(t, normalized=False, special=True) for t in tokens])


def merges_by_score(
    tokens: Sequence[str], scores: Sequence[float], never: Collection[str] = ()
) -> list[tuple[str, str]]:
    """The merges that a sentencepiece vocabulary implies: every way to make a token of two others, best token first.

    Among the ways to make tokens of equal score the longer left half comes first, as in transformers' conversion.
    `never`: tokens that no text makes, such as `</s>` and `<0x0A>`.
    """
    ids = {token: place for place, token in enumerate(tokens) if token not in never}
    found = []
    for token, score in zip(tokens, scores, strict=True):
        if token in never:
            continue
        halves = [(token[:cut], token[cut:]) for cut in range(1, len(token))]
        made = [(left, right) for left, right in halves if left in ids and right in ids]
        made.sort(key=lambda pair: (ids[pair[0]], ids[pair[1]]))
        found += [(score, pair) for pair in made]
    found.sort(key=lambda entry: (entry[0], len(entry[1][0]), len(entry[1][1])), reverse=True)
    return [pair for _, pair in found]
