"""`groundup fill`: the word that is missing."""

from __future__ import annotations

from typing import cast

from groundup.cli.options import Common, Place, Which, open_model
from groundup.cli.output import result

EXAMPLE = 'groundup fill bert-base-uncased "Paris is the [MASK] of France."'


def run(
    model: str,
    text: str,
    /,
    *,
    top: int = 5,
    which: Which = Which(),
    place: Place = Place(),
    common: Common = Common(),
) -> None:
    """Say which words are likeliest in the place of a mask, and how likely.

    Parameters
    ----------
    model
        A model with a masked-word head (BERT, RoBERTa): a hub id or a folder.
    text
        The text, with the model's mask ([MASK], <mask>) where a word is missing; it may stand several times.
    top
        How many words for each mask.
    """
    found = open_model(model, which, place).fill(text, top=top)
    several = bool(found) and isinstance(found[0], list)
    masks = cast(list[list[tuple[str, float]]], found if several else [found])
    lines = []
    for number, mask in enumerate(masks, start=1):
        lines += [f"mask {number}"] if several else []
        lines += [f"{probability:7.4f}  {word}" for word, probability in mask]
    told = [[{"token": word, "probability": probability} for word, probability in mask] for mask in masks]
    result({"text": text, "masks": told}, "\n".join(lines), as_json=common.json)
