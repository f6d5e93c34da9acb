"""Trained tokenizers: read back by transformers with equal ids, learned by the library's own trainers, the same each
time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer

from groundup.core.errors import UsageError
from groundup.inputs.tokenizer import Tokenizer
from groundup.inputs.train import SPECIALS, train_tokenizer

TEXTS = [
    "In the beginning God created the heaven and the earth.",
    "And the earth was without form, and void; and darkness was upon the face of the deep.",
    "Häuser, £5.50 and naïve cafés \U0001f600\n\nas two   lines.",
] * 3
KINDS = ("bpe", "wordpiece", "word", "character")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("specials", [*SPECIALS, {"bos_token": "<s>", "eos_token": "</s>"}], ids=str)
def test_transformers_reads_it_and_gives_equal_ids(kind, specials, tmp_path: Path) -> None:
    ours = train_tokenizer(TEXTS, kind, vocabulary=330, specials=specials)
    ours.save(tmp_path)
    theirs, again = AutoTokenizer.from_pretrained(tmp_path), Tokenizer.from_folder(tmp_path)
    for text in (*TEXTS[:3], "a word nobody knows: zyx"):
        assert theirs(text).input_ids == ours.encode(text) == again.encode(text)
        assert theirs.decode(ours.encode(text), skip_special_tokens=True) == ours.decode(ours.encode(text))
    assert again.fingerprint() == ours.fingerprint()
    assert (theirs.bos_token_id, theirs.eos_token_id) == (ours.bos_id, ours.eos_id)
    assert theirs.mask_token_id == ours.mask_id and len(theirs) == ours.vocab_size
    if specials == "masked":
        ids = ours.encode("the earth")
        assert (ids[0], ids[-1]) == (theirs.cls_token_id, theirs.sep_token_id)


def test_bpe_is_what_the_librarys_trainer_learns() -> None:
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(TEXTS, trainer)
    ours = train_tokenizer(TEXTS, "bpe", vocabulary=300)
    assert ours.vocab_size == backend.get_vocab_size() == 300
    for text in TEXTS[:3]:
        assert ours.encode(text) == backend.encode(text).ids
        assert ours.decode(ours.encode(text)) == text  # any text can be written


SCRIPT = """
import json, sys
from groundup.inputs.train import train_tokenizer
print(json.dumps([train_tokenizer(json.loads(sys.argv[1]), k, vocabulary=330).fingerprint() for k in sys.argv[2:]]))
"""


def test_the_same_texts_give_the_same_tokenizer_in_every_process() -> None:
    def prints(seed: str) -> list[str]:
        words = [sys.executable, "-c", SCRIPT, json.dumps(TEXTS), *KINDS]
        done = subprocess.run(words, capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed})
        return json.loads(done.stdout)

    assert prints("1") == prints("2")


def test_wordpiece_writes_words_it_has_not_seen_from_pieces() -> None:
    made = train_tokenizer(TEXTS, "wordpiece", vocabulary=120)
    pieces = made.encode("earthen", special=False)
    assert len(pieces) > 1 and made.decode(pieces) == "earthen"
    assert made.vocab_size <= 120 and made.encode("EARTH") == made.encode("earth")
    cased = train_tokenizer(TEXTS, "wordpiece", vocabulary=120, lowercase=False)
    assert cased.encode("In") != cased.encode("in")


def test_what_a_text_spells_never_becomes_a_special_token() -> None:
    made = train_tokenizer(TEXTS, "bpe", vocabulary=330)
    assert made.eos_id not in made.encode("so <|endoftext|> it ends")
    assert made.eos_id in made.encode("so <|endoftext|> it ends", control=True)


@pytest.mark.parametrize(
    ("texts", "how", "says"),
    [
        ([], {}, "no text"),
        (TEXTS, {"kind": "unigram"}, "bpe, wordpiece"),
        (TEXTS, {"vocabulary": 100}, "give at least 257"),
        (TEXTS, {"kind": "wordpiece", "vocabulary": 20}, "too small"),
        (TEXTS, {"specials": "chat"}, "causal, masked, seq2seq"),
        (TEXTS, {"specials": {"end": "</s>"}}, "no special token is called end"),
    ],
)
def test_what_makes_no_sense_is_refused(texts, how, says) -> None:
    with pytest.raises(UsageError, match=says):
        train_tokenizer(texts, **how)
