"""Texts as vectors: what a network makes of all tokens, pooled into one direction a row.

A network that sees both ways was often trained for this, and the mean over its tokens says what a text is about. A
decoder was trained to go on: only its last token has seen the whole text, and its state there is what the model is about
to say. Texts that could go on alike lie close, which is not the same as texts that say alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from groundup.core.errors import UsageError
from groundup.core.files import read_json
from groundup.nn.cache import Fresh
from groundup.nn.stack import EncoderDecoder, Stack
from groundup.peft.front import lay

Pooling = Literal["mean", "first", "last"]
POOLINGS: tuple[Pooling, ...] = ("mean", "first", "last")


@torch.inference_mode()
def embed(
    network: Stack | EncoderDecoder,
    rows: Sequence[list[int]],
    *,
    pooling: Pooling = "mean",
    normalize: bool = True,
    adapter: str | None = None,
    batch: int = 32,
    device: torch.device | str = "cpu",
    on_rows: Callable[[int, int], None] | None = None,
) -> Float[Tensor, "n D"]:
    """A vector for each row of ids, of unit length: the mean over its tokens (arXiv 1908.10084), or its first or last one.

    An encoder-decoder's encoder reads the rows. Rows of like lengths are read together, `batch` at a time; after each
    call `on_rows` is told how many rows are done, and of how many. Raises UsageError for a row without tokens.
    """
    if not rows or batch < 1:
        raise UsageError(f"{len(rows)} texts, {batch} at a time: there must be at least one of each")
    bare = next((i for i, row in enumerate(rows) if not row), None)
    if bare is not None:
        raise UsageError(f"text {bare + 1} has no tokens, so there is nothing to make a vector of")
    two_halves = isinstance(network, EncoderDecoder)
    stack = network.encoder if isinstance(network, EncoderDecoder) else network
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    vectors: list[Tensor] = [torch.empty(0)] * len(rows)
    for begin in range(0, len(order), batch):
        group = order[begin : begin + batch]
        ids, step, own = lay(
            network,
            [rows[r] for r in group],
            Fresh(),
            adapters=adapter,
            half="encoder" if two_halves else "whole",
            device=device,
        )
        x = stack.run(ids, step).float()
        for r, start, end in zip(group, own, step.rows.starts[1:], strict=True):
            vectors[r] = x[start:end].mean(0) if pooling == "mean" else x[start if pooling == "first" else end - 1]
        if on_rows is not None:
            on_rows(begin + len(group), len(rows))
    found = torch.stack(vectors)
    return torch.nn.functional.normalize(found, dim=1) if normalize else found


@dataclass(frozen=True)
class Sentences:
    """How a model's folder says that texts become vectors: the pooling, the longest text in tokens, lower case first.

    None: the folder says nothing of it.
    """

    pooling: Pooling | None = None
    limit: int | None = None
    lower: bool = False


_MODES: dict[str, Pooling] = {
    "mean_tokens": "mean",
    "mean_sqrt_len_tokens": "mean",  # the same direction
    "cls_token": "first",
    "lasttoken": "last",
}


def sentences(folder: Path) -> Sentences:
    """What the files of the sentence-transformers library beside a model say (modules.json and those that it names).

    Raises UsageError for a step that would be left out, a further matrix say.
    """
    if not (folder / "modules.json").is_file():
        return Sentences()
    pooling: Pooling | None = None
    for module in read_json(folder / "modules.json"):
        kind = str(module["type"]).rpartition(".")[2]
        if kind not in ("Transformer", "Pooling", "Normalize"):
            raise UsageError(f"{folder / 'modules.json'} names a {kind} step, which is not supported")
        if kind == "Pooling":
            pooling = _pooling(folder / str(module["path"]) / "config.json")
    path = folder / "sentence_bert_config.json"
    settings = read_json(path) if path.is_file() else {}
    return Sentences(pooling, settings.get("max_seq_length"), bool(settings.get("do_lower_case", False)))


def _pooling(path: Path) -> Pooling:
    said = read_json(path)
    modes = [key.removeprefix("pooling_mode_") for key, on in said.items() if key.startswith("pooling_mode_") and on]
    if len(modes) != 1 or modes[0] not in _MODES:
        raise UsageError(
            f"{path}: pooling by {' and '.join(modes) or 'nothing'} is not supported; there are {POOLINGS}"
        )
    return _MODES[modes[0]]


def cut(row: list[int], limit: int, frame: Sequence[int]) -> list[int]:
    """The beginning of a row that is longer than `limit`, as transformers cuts it.

    frame: the ids that stand around an empty text; its last one ([SEP]) stays at the row's end.
    """
    tail = list(frame[-1:]) if row and list(frame[-1:]) == row[-1:] else []
    return row if len(row) <= limit else row[: limit - len(tail)] + tail
