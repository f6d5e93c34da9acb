"""`groundup pretrain`: a tokenizer and a model from random weights."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path

from groundup.cli.options import Common, Place, use_threads
from groundup.cli.output import result
from groundup.cli.progress import Progress
from groundup.cli.runs import left, resumable
from groundup.cli.settings import Changed
from groundup.core.errors import UsageError

EXAMPLE = "groundup pretrain examples/configs/gpt-tiny-bible.yaml --out runs/gpt --minutes 5"


def run(
    recipe: Path,
    /,
    *,
    out: Path,
    settings: Changed = Changed(),
    resume: bool = False,
    dry_run: bool = False,
    place: Place = Place(),
    common: Common = Common(),
) -> None:
    """Train a tokenizer and a model from random weights. Keeps the best and the last model, log.jsonl and a picture of
    the loss in --out.

    Ctrl-C saves; --resume goes on from there, to the bit. Settings given as flags go before those of the recipe.

    Parameters
    ----------
    recipe
        A YAML file: family, model, tokenizer, data, and any of the settings below (examples/configs has some).
    out
        The run's folder. It must not exist yet, but for --resume.
    resume
        Go on with the run in --out.
    dry_run
        Read and check everything, say what would be done, and stop.
    """
    if out.exists() and not resume:
        raise UsageError(f"{out} exists and is not overwritten: add --resume to go on, or name another --out")
    use_threads(place.threads)
    from groundup import api

    given = {name: value for name, value in asdict(settings).items() if value is not None}
    with resumable(out / "run.json", "--resume"), Progress("step") as progress:
        done = api.pretrain(
            recipe,
            out=out,
            resume=resume,
            dry_run=dry_run,
            device=place.device,
            on_progress=progress.update,
            say=progress.say,
            **given,
        )
    facts = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(done).items()}
    if dry_run:
        result(facts, "a dry run: nothing was trained or written", as_json=common.json)
        return
    text = f"{left(done)}\ntry: groundup info {shlex.quote(str(out))}"
    result(facts, text, as_json=common.json)
