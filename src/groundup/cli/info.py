"""`groundup info`: what a model is, how it was loaded, and what its files set."""

from __future__ import annotations

from groundup.cli.options import Common, Which
from groundup.cli.output import listing, result

EXAMPLE = "groundup info smollm2-135m-instruct"


def run(model: str, /, *, which: Which = Which(), common: Common = Common()) -> None:
    """Load a model and say what it is: family, sizes, number formats, stop tokens, sampling defaults, adapters.

    Parameters
    ----------
    model
        A starter, a hub id, a folder, a .gguf file, or a run's folder.
    """
    from groundup import api

    facts = api.load(model, adapter=which.adapter, revision=which.revision).info()
    result(facts, listing(facts), as_json=common.json)
