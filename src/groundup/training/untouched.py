"""What a comparison of methods sets its runs beside: the model as it is, or how often each label is in the training rows.

A base without a head for these labels cannot be asked, so the least that a tuned one must beat is what can be said without
reading: of every row the share of each label among the training rows (of numbers, their mean). Its accuracy is that of
the commonest label, and its loss the least that a constant has on the training rows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from groundup.core.labels import Labels
from groundup.data import rows
from groundup.data.labelled import labelled, labels_in, target
from groundup.data.rows import Dataset
from groundup.evaluation.judging import facts_of, label_report, report_on_labels
from groundup.model import Model
from groundup.training.classify import judged_loss
from groundup.training.compared import UNTOUCHED
from groundup.training.objective import mean_loss
from groundup.training.which import objective_for

CONSTANTS = {"single": "always the commonest", "multi": "always the commonest", "regression": "always the mean"}
_SCORES: dict[str, Callable[[Tensor], Tensor]] = {
    "single": torch.log,
    "multi": partial(torch.logit, eps=1e-6),  # a label that every row has, or none
    "regression": torch.clone,
}

Data = str | Path | Sequence[dict[str, Any]]


def as_it_is(model: Model, asked: Mapping[str, Any]) -> dict[str, Any]:
    """The report on a test of labels (as `Report.to_dict`), or {"name", "loss"} of the validation rows.

    asked  paths of `train` and `data` (the rows that are judged); `labels`, whether a head learns them, of the field
           `label` and the kind `problem`; `report`, whether a report is wanted; max_tokens and batch
    """
    if not asked["labels"]:
        loss = validation_loss(model, asked["data"], max_tokens=asked["max_tokens"], batch=asked["batch"])
        return {"name": UNTOUCHED, "loss": loss}
    train = labelled(asked["train"], asked["label"])
    labels = labels_in(train, asked["problem"])
    now = model.config.labels
    if now is not None and now.serve(labels):
        if asked["report"]:
            report = label_report(model, asked["data"], asked["label"], None, UNTOUCHED, asked["batch"], None)
            return report.to_dict()
        found = labelled(asked["data"], asked["label"], part="validation")
        return {"name": UNTOUCHED, "loss": _loss(model, found, asked["max_tokens"], asked["batch"])}
    return constant(model, train, labels, asked["data"], asked["label"], report=asked["report"])


def validation_loss(model: Model, data: Data, *, max_tokens: int | None = None, batch: int = 16) -> float:
    """The mean loss (nats) of the trained tokens of these rows, as a run of `finetune` measures it, of the model as it
    is."""
    return _loss(model, rows.read(data, part="validation"), max_tokens, batch)


def _loss(model: Model, data: Dataset, max_tokens: int | None, batch: int) -> float:
    objective = objective_for(model)
    found = objective.encode(data, model.words, max_tokens or model.context or 1 << 30)
    return mean_loss(objective, model.network.eval(), found.rows, batch=batch, device=model.device)


def constant(
    model: Model, train: Dataset, labels: Labels, data: Data, field: str | None, *, report: bool
) -> dict[str, Any]:
    """What the training rows' shares of each label, said of every row of `data`, score or lose, as `as_it_is` gives it."""
    found, began = labelled(data, field, part="test" if report else "validation"), time.monotonic()
    wanted = [_targets(row, labels, found.where(i)) for i, row in enumerate(found.rows)]
    shares = torch.cat([_targets(row, labels, train.where(i)) for i, row in enumerate(train.rows)]).mean(0)
    name = CONSTANTS[labels.problem]
    if report:
        said = [shares.expand_as(each) for each in wanted]
        return report_on_labels(found, labels, said, name, facts_of(model, found, began)).to_dict()
    scores = _SCORES[labels.problem](shares)
    each = torch.cat(wanted)
    return {"name": name, "loss": float(judged_loss(scores.expand_as(each), each, labels)) / len(each)}


def _targets(row: dict[str, Any], labels: Labels, where: str) -> Float[Tensor, "N K"]:
    """A number a label for the text, or for each of its words."""
    values = row["tags"] if labels.level == "token" else [row["label"]]
    return torch.tensor([target(value, labels, where) for value in values], dtype=torch.float64)
