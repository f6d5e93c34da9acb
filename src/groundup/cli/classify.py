"""`groundup classify`: which label a text has."""

from __future__ import annotations

from groundup.cli.options import Common, Place, Which, open_model
from groundup.cli.output import result

EXAMPLE = 'groundup classify runs/mine "The striker scored twice."'


def run(
    model: str,
    text: str,
    /,
    *,
    top: int | None = None,
    which: Which = Which(),
    place: Place = Place(),
    common: Common = Common(),
) -> None:
    """Say which label a text has, and how likely each is; of words where the model judges words.

    Parameters
    ----------
    model
        A model with a head for labels: the folder of a run on rows with labels, a hub id or a folder.
    text
        The text.
    top
        How many of the likeliest labels to show. Left out: all.
    """
    found = open_model(model, which, place).classify(text)
    if isinstance(found, dict):
        shown = dict(list(found.items())[:top])
        lines = [f"{value:7.4f}  {name}" for name, value in shown.items()]
        result({"text": text, "labels": shown}, "\n".join(lines), as_json=common.json)
        return
    words = [each for each in found if isinstance(each, tuple)]
    told = [{"word": word, "label": name, "probability": value} for word, name, value in words]
    lines = [f"{value:7.4f}  {name:12} {word}" for word, name, value in words]
    result({"text": text, "words": told}, "\n".join(lines), as_json=common.json)
