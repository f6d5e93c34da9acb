"""`groundup convert`: a model with fewer key and value heads."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from groundup.cli.options import Common, Place, Which, open_model, refuse_existing
from groundup.cli.output import note, result
from groundup.cli.progress import Progress

EXAMPLE = "groundup convert smollm2-135m-instruct --kv-heads 1 --out multi-query"


def run(
    model: str,
    /,
    *,
    kv_heads: int,
    out: Path,
    pool: Literal["mean", "first", "random"] = "mean",
    seed: int = 0,
    which: Which = Which(),
    place: Place = Place(),
    common: Common = Common(),
) -> None:
    """Let groups of query heads share a key and value head, and write the model as a folder that loads like any other.

    Decoding then keeps and reads fewer bytes a token. The answers are worse until the model has learned on: tune it
    with groundup finetune --method full.

    Parameters
    ----------
    model
        A starter, a hub id, a folder or a .gguf file, of a family that can share heads (llama, mistral, qwen2 ...).
    kv_heads
        How many key and value heads stay; a divisor of those that are there. 1 is multi-query attention.
    out
        The folder to write; it must not exist yet.
    pool
        What a group's heads become: their mean, the first of them, or random numbers.
    seed
        Of the random numbers.
    """
    refuse_existing(out)
    from groundup import api

    lm = open_model(model, which, place)
    with Progress("text") as progress:
        made = api.convert(lm, kv_heads=kv_heads, pool=pool, seed=seed, on_progress=progress.update)
    api.save(made, out)
    note(made.notes[-1])
    facts = {"out": str(out), "kv_heads": kv_heads, "pool": pool, "note": made.notes[-1]}
    result(facts, str(out), as_json=common.json)
