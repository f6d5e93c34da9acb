"""`groundup merge`: an adapter into the weights, as a model of its own."""

from __future__ import annotations

from pathlib import Path

from groundup.cli.options import Common, Which, refuse_existing
from groundup.cli.output import note, result

EXAMPLE = "groundup merge smollm2-135m-instruct --adapter runs/mine --out merged"


def run(model: str, /, *, out: Path, which: Which = Which(), common: Common = Common()) -> None:
    """Add an adapter to the weights and save the model in the Hugging Face layout.

    Parameters
    ----------
    model
        A starter, a hub id, a folder, a .gguf file, or a run's folder (which names its model and adapter).
    out
        The folder to write; it must not exist yet.
    """
    refuse_existing(out)
    from groundup import api

    lm = api.load(model, adapter=which.adapter, revision=which.revision)
    merged = api.merge(lm)
    api.save(merged, out)
    note(f"merged into {out}")
    result({"out": str(out)}, str(out), as_json=common.json)
