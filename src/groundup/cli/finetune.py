"""`groundup finetune`: tune a model on rows of data."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from groundup.cli.methods import ALSO, Flags, Kind, chosen
from groundup.cli.options import Common, Place, Which, open_model, refuse_existing, typed
from groundup.cli.output import note, result
from groundup.cli.progress import Progress
from groundup.cli.runs import left, resumable
from groundup.core.errors import UsageError
from groundup.core.files import atomic_write, read_json
from groundup.training.settings import Aim, Settings

if TYPE_CHECKING:
    from groundup.model import Model

EXAMPLE = "groundup finetune smollm2-135m-instruct --data train.jsonl --out runs/mine --minutes 5"


def run(
    model: str,
    /,
    *,
    data: Path,
    out: Path,
    validation: Path | None = None,
    max_tokens: int | None = None,
    aim: Annotated[Aim, Parameter(name="*")] = Aim(),
    method: Kind = "lora",
    init_from: Path | None = None,
    store: str | None = None,
    flags: Flags = Flags(),
    settings: Annotated[Settings, Parameter(name="*")] = Settings(),
    resume: bool = False,
    dry_run: bool = False,
    find_learning_rate: bool = False,
    which: Which = Which(),
    place: Place = Place(),
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
    max_tokens
        The longest row. A longer one is an error that names it.
    method
        What is trained; qlora is lora with --store nf4.
    init_from
        Of --method prompt: a folder with another prompt, whose vectors the new one begins with, repeated or cut.
    store
        Hold the base's weights in fewer bits while training, and whenever the run is loaded: int8, nf4, int4, ... as of
        groundup quantize.
    resume
        Go on with the run in --out.
    dry_run
        Read and check everything, say what would be done, and stop.
    find_learning_rate
        Train nothing: try rates from far too low to far too high (--steps of them, or 100) and say which one to take.
        The picture and the numbers go beside --out, as OUT-rates.png and OUT-rates.json.
    """
    tuning = chosen(method, flags)
    if out.exists() and not resume:
        raise UsageError(f"{out} exists and is not overwritten: add --resume to go on, or name another --out")
    rates = out.with_name(f"{out.name}-rates.json")
    if find_learning_rate:
        if resume or dry_run:
            raise UsageError("--find-learning-rate trains nothing: leave --resume and --dry-run out")
        for path in (rates, rates.with_suffix(".png")):
            refuse_existing(path)
    from groundup import api

    lm = open_model(model, which, place, precision="float32")
    kind = store or ALSO.get(method, (method, None))[1]
    if kind is not None:
        if tuning.whole:
            raise UsageError(
                f"--store {kind}: weights in few bits cannot learn, so --method {method} has no use for it"
            )
        lm = api.quantize(lm, kind)
        note(lm.notes[-1])
    tuned = api.adapt(lm, tuning, seed=settings.seed, start=init_from)
    if find_learning_rate:
        _range_test(tuned, data, rates, validation, max_tokens, aim, settings, common)
        return
    with resumable(out / "run.json", "--resume"), Progress("step") as progress:
        done = api.finetune(
            tuned,
            data,
            out=out,
            validation=validation,
            max_tokens=max_tokens,
            resume=resume,
            dry_run=dry_run,
            consume=True,
            on_progress=progress.update,
            say=progress.say,
            **asdict(aim),
            **asdict(settings),
        )
    facts = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(done).items()}
    if dry_run:
        result(facts, "a dry run: nothing was trained or written", as_json=common.json)
        return
    kept = out / "run.json"
    learned = str(read_json(kept)["objective"]) if kept.exists() else ""
    try_it = f'{"classify" if "labels" in learned else "generate"} {shlex.quote(str(out))} "..."'
    if learned.startswith("choices"):
        try_it = f"evaluate {shlex.quote(str(out))} --data TEST.jsonl"
    text = f"{left(done)}\ntry: groundup {try_it}"
    result(facts, text, as_json=common.json)


def _range_test(
    tuned: Model,
    data: Path,
    out: Path,
    validation: Path | None,
    max_tokens: int | None,
    aim: Aim,
    settings: Settings,
    common: Common,
) -> None:
    """Find a learning rate, and say the command that trains with it."""
    from groundup import api

    with Progress("update") as progress:
        found = api.find_learning_rate(
            tuned,
            data,
            validation=validation,
            max_tokens=max_tokens,
            on_progress=progress.update,
            say=progress.say,
            **asdict(aim),
            **asdict(settings),
        )
    picture = out.with_suffix(".png")
    out.parent.mkdir(parents=True, exist_ok=True)
    found.png(picture)
    atomic_write(out, json.dumps(found.to_dict(), indent=1))
    again = [word for word in typed if word != "--find-learning-rate"]
    end = "nowhere" if found.lost is None else f"at {found.lost:.2g}"
    text = (
        f"suggested learning rate {found.suggestion:.2g}: the loss falls the steepest at {found.steepest:.2g}, is the lowest "
        f"at {found.least:.2g}, and all is lost {end}  {picture}\n"
        f"try: {shlex.join(['groundup', *again, '--learning-rate', f'{found.suggestion:.2g}'])}"
    )
    result({**found.to_dict(), "picture": str(picture)}, text, as_json=common.json)
