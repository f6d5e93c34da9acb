"""A tiny BERT with words: the reference's own files, weights drawn anew, a WordPiece vocabulary that one can read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers
from transformers.models.bert import BertTokenizerFast

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
