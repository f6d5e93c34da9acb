"""`groundup finetune`: tune a model on rows of data."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any, Literal

from groundup.cli.options import Common, Machine, Which, one_of, open_model
from groundup.cli.output import listing, note, result
from groundup.cli.progress import Progress
from groundup.core.errors import UsageError

EXAMPLE = "groundup finetune smollm2-135m-instruct --data train.jsonl --out runs/mine --minutes 5"


def run(
    model: str,
    /,
    *,
    data: Path,
    out: Path,
    validation: Path | None = None,
    method: Literal["lora"] = "lora",
    rank: int = 16,
    alpha: float = 32.0,
    targets: str = "attn.q attn.k attn.v attn.o mlp.up mlp.gate mlp.down",
    dropout: float = 0.0,
    rank_stabilized: bool = False,
    steps: int | None = None,
    epochs: float | None = None,
    minutes: float | None = None,
    learning_rate: float = 1e-3,
    schedule: Literal["cosine", "linear", "constant"] = "cosine",
    warmup: float = 0.05,
    batch: int = 16,
    accumulate: int = 1,
    clip: float = 1.0,
    weight_decay: float = 0.0,
    max_tokens: int | None = None,
    checkpointing: bool = False,
    seed: int = 0,
    resume: bool = False,
    dry_run: bool = False,
    which: Which = Which(),
    machine: Machine = Machine(),
    common: Common = Common(),
) -> int:
    """Tune a model on rows of data. Keeps the best and the last adapter, log.jsonl and a picture of the loss in --out.

    Ctrl-C saves; --resume goes on from there, to the bit.

    Parameters
    ----------
    model
        A starter, a hub id, a folder or a .gguf file.
    data
        A file of rows (json, jsonl, csv, parquet, txt), or a folder with train.jsonl in it.
    out
        The run's folder. It must not exist yet, but for --resume.
    validation
        Rows to validate on. Left out, a part of --data is split off.
    method
        What is trained.
    rank
        The rank of LoRA's two matrices.
    alpha
        LoRA's scale: alpha / rank.
    targets
        Which linears LoRA is put on, by their names in groundup.
    dropout
        The share of LoRA's input that is dropped in training.
    rank_stabilized
        Scale by alpha / sqrt(rank) instead (arXiv 2312.03732).
    steps
        Train for so many steps.
    epochs
        Train so often over all rows.
    minutes
        Train for so long; the schedule fits it.
    learning_rate
        The highest learning rate.
    schedule
        How the learning rate falls.
    warmup
        The share of the steps in which the learning rate rises.
    batch
        Rows a step.
    accumulate
        Collect the gradients of so many batches for one step.
    clip
        The longest gradient; 0 leaves it as it is.
    weight_decay
        AdamW's weight decay.
    max_tokens
        The longest row. A longer one is an error that names it.
    checkpointing
        Compute activations anew in the backward pass: less memory, more time.
    seed
        The same seed and flags give the same bits.
    resume
        Go on with the run in --out.
    dry_run
        Say what would be done and how much memory it takes, and stop.
    """
    one_of(steps=steps, epochs=epochs, minutes=minutes)
    if out.exists() and not resume:
        raise UsageError(f"{out} exists and is not overwritten: add --resume to go on, or name another --out")
    from groundup import api

    lm = open_model(model, which, machine)
    tuned = api.adapt(
        lm, api.LoRA(rank=rank, alpha=alpha, targets=targets, dropout=dropout, rank_stabilized=rank_stabilized)
    )
    flags: dict[str, Any] = {
        "validation": validation,
        "steps": steps,
        "epochs": epochs,
        "minutes": minutes,
        "learning_rate": learning_rate,
        "schedule": schedule,
        "warmup": warmup,
        "batch": batch,
        "accumulate": accumulate,
        "clip": clip,
        "weight_decay": weight_decay,
        "max_tokens": max_tokens,
        "checkpointing": checkpointing,
        "precision": machine.precision,
        "seed": seed,
        "resume": resume,
        "dry_run": dry_run,
    }
    again = shlex.join(["groundup", "finetune", model, "--data", str(data), "--out", str(out), "--resume"])
    with Progress("step") as progress:
        try:
            done = api.finetune(tuned, data, out=out, on_progress=progress.update, **flags)
        except KeyboardInterrupt:
            note(f"stopped and saved; go on with:\n  {again}")
            return 130
    facts = {"out": str(done.out), "best": str(done.best), "last": str(done.last)}
    result(facts, listing(facts), as_json=common.json)
    return 0
