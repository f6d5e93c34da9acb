"""A tiny BERT or RoBERTa with words: the reference's own files, weights drawn anew, vocabularies that one can read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers
from tokenizers import AddedToken
from transformers import BertTokenizerFast, RobertaTokenizerFast

from parity.oracles import redraw

PIECES = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *"abcdefghijklmnopqrstuvwxyz.,",
    *(f"##{c}" for c in "aeiounrst"),
]
WORDS = ["the", "cat", "sat", "on", "mat", "paris", "is", "capital", "of", "france", "dog", "king", "queen", "water"]


def write_bert(folder: Path, *, kind: str = "BertForMaskedLM", context: int = 31, **more: Any) -> Any:
    """The reference, saved with its tokenizer."""
    vocabulary = [*PIECES, *WORDS]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    config = transformers.BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=30,
        num_hidden_layers=3,
        num_attention_heads=5,
        intermediate_size=41,
        max_position_embeddings=context,
        **more,
    )
    model = getattr(transformers, kind)(config).eval()
    redraw(model)
    model.save_pretrained(folder)
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    return model


def write_roberta(folder: Path, *, context: int = 31) -> Any:
    """The reference, saved with a byte-level tokenizer of a few whole words."""
    letters = [*sorted({c for word in WORDS for c in word}), "Ġ", "."]
    held, merges = ["<s>", "<pad>", "</s>", "<unk>", *letters], []
    for word in (f"Ġ{w}" for w in WORDS):
        for end in range(2, len(word) + 1):
            if word[:end] not in held:
                merges.append((word[: end - 1], word[end - 1]))
                held.append(word[:end])
    held.append("<mask>")
    folder.mkdir(parents=True, exist_ok=True)
    mask = AddedToken("<mask>", lstrip=True, special=True, normalized=False)
    tokenizer = RobertaTokenizerFast(vocab={t: i for i, t in enumerate(held)}, merges=merges, mask_token=mask)
    config = transformers.RobertaConfig(
        vocab_size=len(held),
        hidden_size=30,
        num_hidden_layers=3,
        num_attention_heads=5,
        intermediate_size=41,
        max_position_embeddings=context + 2,
        type_vocab_size=1,
    )
    model = transformers.RobertaForMaskedLM(config).eval()
    redraw(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model
