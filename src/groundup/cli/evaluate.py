"""`groundup evaluate`: score a model's answers to held-out rows."""

from __future__ import annotations

from pathlib import Path

from groundup.cli.options import Common, Machine, Sampling, Which, open_model, refuse_existing, words
from groundup.cli.output import note, result
from groundup.cli.progress import Progress
from groundup.core.errors import GateError, UsageError

EXAMPLE = "groundup evaluate smollm2-135m-instruct --adapter runs/mine --data test.jsonl --out tuned.json"


def run(
    model: str,
    /,
    *,
    data: Path,
    metrics: tuple[str, ...] = (),
    label: str | None = None,
    batch: int = 64,
    name: str | None = None,
    out: Path | None = None,
    against: tuple[Path, ...] = (),
    at_least: tuple[str, ...] = (),
    which: Which = Which(),
    sampling: Sampling = Sampling(),
    machine: Machine = Machine(),
    common: Common = Common(),
) -> None:
    """Answer the rows of a file and score the answers, each score with its 95 % interval.

    Answers are the likeliest ones (--temperature 0) unless told otherwise.

    Parameters
    ----------
    model
        A starter, a hub id, a folder, a .gguf file, or a run's folder.
    data
        A file of rows with the right answers.
    metrics
        exact-match, json, field:NAME, rouge-l, rouge-l:NAME, perplexity; acc, acc_norm, acc_bytes for rows with choices.
        Left out: what suits the rows.
    label
        The field with a row's label, for a model with a head for labels. Left out: "label".
    batch
        How many rows are answered at once.
    name
        What the table calls this model.
    out
        Write the report to this .json file, and a picture of the scores beside it.
    against
        Earlier reports to compare with, in one table.
    at_least
        A bar, like "valid JSON=0.9": exit code 3 where the score is below it.
    """
    from groundup import api
    from groundup.evaluation.report import Report, compare

    if out is not None:
        refuse_existing(out)
        if out.suffix != ".json":
            raise UsageError(f"--out {out} must end in .json")
    bars = [_bar(text) for text in at_least]
    earlier = [Report.from_json(path) for path in against]
    answering = sampling.arguments()
    if answering["temperature"] is None:
        answering["temperature"] = 0.0  # scores are of the likeliest answer, whatever generation_config.json says
    lm = open_model(model, which, machine)
    with Progress("row") as progress:
        report = api.evaluate(
            lm,
            data,
            metrics=words(metrics) or None,
            name=name or ("+".join(a.name for a in which.adapter) or model),
            label=label,
            batch=batch,
            on_progress=progress.update,
            **answering,
            **sampling.ahead(),
        )
    table = compare([*earlier, report])
    if out is not None:
        report.to_json(out)
        table.png(out.with_suffix(".png"))
        note(f"wrote {out} and {out.with_suffix('.png')}")
    data_out = report.to_dict() if common.json else {}
    result(data_out, table.table(), as_json=common.json)
    for score_name, bar in bars:
        score = report.score(score_name)
        if score.value < bar:
            raise GateError(f"{score_name} is {score}, below the bar of {bar:g}")


def _bar(text: str) -> tuple[str, float]:
    """A score's name and the least value, from NAME=VALUE."""
    name, equals, value = text.rpartition("=")
    try:
        if not equals:
            raise ValueError
        return name.strip(), float(value)
    except ValueError:
        raise UsageError(f"--at-least takes NAME=VALUE, like 'valid JSON=0.9', not {text!r}") from None
