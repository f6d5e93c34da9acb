"""`groundup quantize`: a model's weights in fewer bits, and what that costs."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from groundup.cli.options import Common, Place, Which, open_model, refuse_existing
from groundup.cli.output import listing, result
from groundup.cli.progress import Progress
from groundup.core.errors import GateError, UsageError

EXAMPLE = "groundup quantize smollm2-135m-instruct --to nf4 --out small"


def run(
    model: str,
    /,
    *,
    out: Path,
    to: str = "int8",
    targets: str = "all",
    calibrate: Path | None = None,
    data: Path | None = None,
    max_kl: float | None = None,
    format: Literal["hf", "gguf"] | None = None,
    which: Which = Which(),
    place: Place = Place(),
    common: Common = Common(),
) -> None:
    """Store weights in fewer bits, and write the model as a folder that loads like any other, or as a `.gguf` file.

    Both models read the same rows, and what the smaller one lost is printed and kept in ledger.json beside the files (in a
    .gguf, among its metadata).

    Parameters
    ----------
    model
        A starter, a hub id, a folder or a .gguf file.
    out
        The folder or file to write; it must not exist yet.
    to
        bf16, fp16, int8, int4, nf4, fp4, llm-int8, static-int8, q8_0, q4_0, q4_1; with settings as "nf4:block=128,double=false".
    targets
        Which weights, by the ends of their names ("attn.q mlp.down", "embed.tokens", "head"), or all: the linears of blocks.
    calibrate
        Rows whose activations tell how to round (their first 16,384 tokens): int4, q4_0, q4_1 and q8_0 lose less with them (GPTQ);
        static-int8 needs them.
    data
        Rows that both models read (the first 64). Left out: eight short passages.
    max_kl
        A bar: with a mean KL above it (nats a token), nothing is written and the exit code is 3.
    format
        hf or gguf (for q8_0, q4_0, q4_1 and 16 bits). Left out: gguf where --out ends in .gguf.
    """
    refuse_existing(out)
    from groundup import api

    lm = open_model(model, which, place)
    if lm.adapter is not None:
        raise UsageError("weights and an adapter are written apart: groundup merge first, or quantize the base alone")
    with Progress("text") as progress:
        small = api.quantize(lm, to, targets=targets, calibrate=calibrate, data=data, on_progress=progress.update)
    facts = dict(small.costs[-1])
    if max_kl is not None and facts.get("kl", 0.0) > max_kl:
        raise GateError(f"KL is {facts['kl']:.3g} nats a token, above the bar of {max_kl:g}: nothing was written")
    api.save(small, out, format=format)
    result({"out": str(out), **facts}, f"{listing(facts)}\n\nwritten to {out}", as_json=common.json)
