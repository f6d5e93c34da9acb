"""The data sets that come through the package index, as the models do."""

from __future__ import annotations

from groundup.checkpoints.starters import STARTERS


def starters() -> list[str]:
    """Names of the starters that are data; `groundup.data.news` makes rows of "news"."""
    return [name for name, starter in STARTERS.items() if starter.kind == "data"]
