"""`groundup finetune`: tune a model on rows of data."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from groundup.cli.options import Common, Machine, Which, one_of, open_model, typed
from groundup.cli.output import result, size
from groundup.cli.progress import Progress, clock
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
    targets: str = "all",
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
    validate_every: int | None = None,
    save_every: float = 60.0,
    seed: int = 0,
    resume: bool = False,
    dry_run: bool = False,
    which: Which = Which(),
    machine: Machine = Machine(),
    common: Common = Common(),
) -> None:
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
        Which linears LoRA is put on, by the ends of their names ("attn.q attn.v"), or all (but the head).
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
    validate_every
        Steps between two validations; left out, a quarter of all.
    save_every
        Seconds between two saves of the whole state.
    seed
        The same seed and flags give the same bits.
    resume
        Go on with the run in --out.
    dry_run
        Read and check everything, say what would be done, and stop.
    """
    one_of(steps=steps, epochs=epochs, minutes=minutes)
    if out.exists() and not resume:
        raise UsageError(f"{out} exists and is not overwritten: add --resume to go on, or name another --out")
    from groundup import api

    lm = open_model(model, which, machine, precision="float32")
    methods = {"lora": api.LoRA}
    chosen = methods[method](rank=rank, alpha=alpha, targets=targets, dropout=dropout, rank_stabilized=rank_stabilized)
    tuned = api.adapt(lm, chosen, seed=seed)
    with Progress("step") as progress:
        try:
            done = api.finetune(
                tuned,
                data,
                out=out,
                validation=validation,
                steps=steps,
                epochs=epochs,
                minutes=minutes,
                learning_rate=learning_rate,
                schedule=schedule,
                warmup=warmup,
                batch=batch,
                accumulate=accumulate,
                clip=clip,
                weight_decay=weight_decay,
                max_tokens=max_tokens,
                checkpointing=checkpointing,
                precision=machine.precision,
                validate_every=validate_every,
                save_every=save_every,
                seed=seed,
                resume=resume,
                dry_run=dry_run,
                on_progress=progress.update,
                say=progress.say,
            )
        except KeyboardInterrupt:
            if (out / "run.json").exists():
                again = [word for word in typed if word != "--resume"]
                progress.say(f"stopped and saved; go on with:\n  {shlex.join(['groundup', *again, '--resume'])}")
            raise
    facts = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(done).items()}
    if dry_run:
        result(facts, "a dry run: nothing was trained or written", as_json=common.json)
        return
    text = (
        f"best  step {done.best_step}, validation loss {done.best_loss:.4f}  {done.best}\n"
        f"last  step {done.steps}, validation loss {done.last_loss:.4f}  {done.last}\n"
        f"{done.rows} rows, {done.tokens:,} tokens ({done.trained_tokens:,} trained) in {clock(done.seconds)}, "
        f"peak memory {size(done.peak_memory)}\n"
        f'try: groundup generate {shlex.quote(str(out))} "..."'
    )
    result(facts, text, as_json=common.json)
