"""`groundup compare`: methods of tuning side by side, and which one to take."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from groundup.cli.options import Common, Place, words
from groundup.cli.output import note, result
from groundup.cli.progress import Progress
from groundup.cli.runs import resumable
from groundup.cli.settings import Changed
from groundup.training.settings import Aim

EXAMPLE = (
    "groundup compare smollm2-135m-instruct --data train.jsonl --methods lora,ia3,prompt --seeds 3 --epochs 1 "
    "--out runs/compared"
)


def run(
    model: str,
    /,
    *,
    data: Path,
    methods: str,
    out: Path,
    seeds: int = 3,
    validation: Path | None = None,
    test: Path | None = None,
    metrics: tuple[str, ...] = (),
    max_tokens: int | None = None,
    answer_tokens: int = 256,
    aim: Annotated[Aim, Parameter(name="*")] = Aim(),
    settings: Changed = Changed(),
    revision: str | None = None,
    place: Place = Place(),
    common: Common = Common(),
) -> int:
    """Tune a model by several methods with several seeds: a table and a picture of score, trained numbers, seconds, peak
    memory, file size and spread, and which method to take.

    Each run has a process of its own. The same command goes on where it was stopped, and takes more methods or seeds.

    Parameters
    ----------
    model
        A starter, a hub id, a folder or a .gguf file.
    data
        A file of rows (json, jsonl, csv, parquet, txt), or a folder with train.jsonl in it.
    methods
        Like lora,ia3,prompt; with settings "lora:rank=8,targets=all;ia3;prompt:length=20".
    out
        The folder of the comparison: runs, results.json and compare.png.
    seeds
        How many runs a method; their seeds count from --seed.
    validation
        Rows to choose the best step by. Left out, a part of --data is split off, the same for all runs.
    test
        Rows whose answers are scored. Left out, the score is the validation loss.
    metrics
        Of --test, as in `groundup evaluate`; the first one counts.
    max_tokens
        The longest row. A longer one is an error that names it.
    answer_tokens
        The longest answer to a row of --test, in tokens.
    revision
        The branch, tag or commit, for a model from the hub.
    """
    from groundup import api

    given = {name: value for name, value in asdict(settings).items() if value is not None}
    with resumable(out / "compare.json"), Progress("run") as progress:
        found = api.compare(
            model,
            data,
            methods=methods,
            out=out,
            seeds=seeds,
            validation=validation,
            test=test,
            metrics=words(metrics),
            max_tokens=max_tokens,
            answer_tokens=answer_tokens,
            revision=revision,
            device=place.device,
            threads=place.threads,
            on_progress=progress.update,
            say=progress.say,
            **asdict(aim),
            **given,
        )
    note(f"wrote {out / 'results.json'} and {out / 'compare.png'}")
    result(found.to_dict(), found.text(), as_json=common.json)
    return 0 if found.whole else 1
