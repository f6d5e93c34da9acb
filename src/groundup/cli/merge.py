"""`groundup merge`: an adapter into the weights, as a model of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from groundup.cli.options import Common, Which, refuse_existing
from groundup.cli.output import note, result
from groundup.core.errors import UsageError

EXAMPLE = "groundup merge smollm2-135m-instruct --adapter runs/mine --out merged"


def run(
    model: str,
    /,
    *,
    out: Path,
    apart: bool = False,
    format: Literal["hf", "gguf"] | None = None,
    which: Which = Which(),
    common: Common = Common(),
) -> None:
    """Add an adapter to the weights and save the model, as a folder in the Hugging Face layout or as a `.gguf` file.

    Parameters
    ----------
    model
        A starter, a hub id, a folder, a .gguf file, or a run's folder (which names its model and adapter).
    out
        The folder or file to write; it must not exist yet.
    apart
        Merge nothing: write the adapter in PEFT's layout and its base beside it, so that PEFT can load the two.
    format
        hf or gguf. Left out: gguf where --out ends in .gguf.
    """
    refuse_existing(out)
    if apart and format == "gguf":
        raise UsageError("--apart writes folders for PEFT: leave --format gguf out")
    from groundup import api

    lm = api.load(model, adapter=which.adapter, revision=which.revision)
    if apart:
        api.save(lm, out, with_base=True)
        note(f"adapter in {out}, its base in {out / 'base'}")
    else:
        merged = api.merge(lm)
        api.save(merged, out, format=format)
        note(f"{merged.notes[-1]}; written to {out}")
    result({"out": str(out)}, str(out), as_json=common.json)
