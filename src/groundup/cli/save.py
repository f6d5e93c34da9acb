"""`groundup save`: a model in another format, as a folder or as a file that llama.cpp runs."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from groundup.cli.options import Common, Which, refuse_existing
from groundup.cli.output import result
from groundup.core.errors import UsageError
from groundup.core.files import size

EXAMPLE = "groundup save merged --format gguf --to float16 --out model.gguf"


def run(
    model: str,
    /,
    *,
    out: Path,
    format: Literal["hf", "gguf"] | None = None,
    to: Literal["float32", "float16", "bfloat16"] | None = None,
    which: Which = Which(),
    common: Common = Common(),
) -> None:
    """Write a model in another format: a `.gguf` file for llama.cpp, or a folder in the Hugging Face layout.

    Parameters
    ----------
    model
        A starter, a hub id, a folder or a .gguf file.
    out
        The file or folder to write; it must not exist yet.
    format
        hf or gguf. Left out: gguf where --out ends in .gguf.
    to
        The number format of matrices. Left out: the model's own; float32 in a folder. Those in blocks (q8_0, q4_0 ...) stay in them in a
        .gguf.
    """
    refuse_existing(out)
    from groundup import api

    gguf = format == "gguf" or (format is None and out.suffix == ".gguf")
    if to == "float16" and not gguf:
        raise UsageError("--to float16 is for .gguf; a folder is written in float32 or bfloat16")
    lm = api.load(model, adapter=which.adapter, revision=which.revision, dtype="file" if gguf else to or "float32")
    api.save(lm, out, format="gguf" if gguf else "hf", dtype=to if gguf else None)
    told = {"out": str(out)} | ({"bytes": out.stat().st_size} if gguf else {})
    result(told, f"{out}" + (f" ({size(out.stat().st_size)})" if gguf else ""), as_json=common.json)
