"""Reports of what a model says without writing: the labels that its head gives, and the choices that it finds likely."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from groundup.core.errors import UsageError
from groundup.core.labels import Labels
from groundup.data import rows
from groundup.data.labelled import labelled, question, target
from groundup.evaluation.choices import choice_logprobs, choice_scores, picked
from groundup.evaluation.labels import label_scores, tag_scores
from groundup.evaluation.report import Confusion, Report
from groundup.model import Model
from groundup.nn.stack import Encoder, EncoderDecoder


def facts_of(model: Model, data: rows.Dataset, began: float) -> dict[str, str | int | float]:
    """What a report says of the model, the rows and the time since `began` (time.monotonic)."""
    return {
        "model": model.origin.name,
        "fingerprint": model.origin.fingerprint,
        "adapter": model.adapter or "none",
        "precision": model.precision,
        "data": data.name,
        "rows": len(data),
        "seconds": round(time.monotonic() - began, 2),
    }


def label_report(
    model: Model, data: Any, label: str | None, metrics: Sequence[str] | None, name: str | None, batch: int,
    on_progress: Callable[..., None] | None,
) -> Report:  # fmt: skip
    """The report of a model with a head for labels on rows with labels (in the field `label`)."""
    if metrics:
        raise UsageError("a head for labels has its own metrics: leave --metrics out")
    labels, began = model.config.labels, time.monotonic()
    assert labels is not None
    found = labelled(data, label, part="test")
    if (found.kind == "tags") != (labels.level == "token"):
        raise UsageError(f"{found.name} holds rows of kind {found.kind}, and the head judges a {labels.level}")
    tagged = labels.level == "token"
    said = model.judge([row["tokens" if tagged else "text"] for row in found.rows], batch=batch)
    if on_progress is not None:
        on_progress(len(found), len(found))
    return report_on_labels(found, labels, said, name or model.origin.name, facts_of(model, found, began))


def report_on_labels(
    found: rows.Dataset,
    labels: Labels,
    said: Sequence[Float[Tensor, "N K"]],
    name: str,
    facts: dict[str, str | int | float],
) -> Report:
    """The report on probabilities of labels: [1, K] for each text, or [N, K] for the N words of each."""
    tagged = labels.level == "token"
    shown = [[labels.names[int(p.argmax())] for p in each] for each in said]
    if tagged:
        scores = tag_scores(shown, [row["tags"] for row in found.rows])
        references = [" ".join(row["tags"]) for row in found.rows]
        predictions = [" ".join(tags) for tags in shown]
    else:
        wanted = [target(row["label"], labels, found.where(i)) for i, row in enumerate(found.rows)]
        scores = label_scores(labels, [each[0].tolist() for each in said], wanted)
        references = [
            json.dumps(v) if isinstance(v, list | float) else str(v) for v in (r["label"] for r in found.rows)
        ]
        predictions = [_said(each[0].tolist(), labels) for each in said]
    lines = tuple(
        {"prompt": row["tokens"] if tagged else row["text"], "reference": theirs, "prediction": ours}
        for row, theirs, ours in zip(found.rows, references, predictions, strict=True)
    )
    single = labels.problem == "single" and not tagged
    confusions = (Confusion.count("label", predictions, references),) if single else ()
    return Report(name, tuple(scores), lines, confusions, facts)


def _said(row: list[float], labels: Labels) -> str:
    if labels.problem == "regression":
        return json.dumps(row[0] if len(row) == 1 else row)
    if labels.problem == "multi":
        return json.dumps([name for name, p in zip(labels.names, row, strict=True) if p > 0.5])
    return labels.names[max(range(len(row)), key=row.__getitem__)]


def choice_report(model: Model, found: rows.Dataset, metrics: Sequence[str] | None, name: str | None) -> Report:
    """The report on questions with choices; `metrics`: which of acc, acc_norm and acc_bytes."""
    if isinstance(model.network, Encoder | EncoderDecoder):
        raise UsageError(f"choices are scored by a model that goes on with a text, and {model.origin.name} does not")
    began = time.monotonic()
    questions = [question(row) for row in found.rows]
    told = choice_logprobs(model.network, questions, model.words, adapter=model.adapter, device=model.device)
    scores = choice_scores(questions, told)
    known = [score.name for score in scores]
    for metric in metrics or ():
        if metric not in known:
            raise UsageError(f"rows with choices have the metrics {', '.join(known)}, not {metric!r}")
    lines = tuple(
        {"prompt": q.prompt, "reference": q.choices[q.answer], "prediction": q.choices[picked(each, q.choices)],
         "logprobs": each}
        for q, each in zip(questions, told, strict=True)
    )  # fmt: skip
    wanted = tuple(score for score in scores if not metrics or score.name in metrics)
    return Report(name or model.origin.name, wanted, lines, (), facts_of(model, found, began))
