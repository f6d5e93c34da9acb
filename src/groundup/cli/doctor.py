"""`groundup doctor`: the machine, the libraries, and which number formats are fast here."""

from __future__ import annotations

from groundup.cli.options import Common
from groundup.cli.output import listing, result

EXAMPLE = "groundup doctor"


def run(*, common: Common = Common()) -> None:
    """Say what this machine has: processor, memory, library versions, cache, and the speed of each number format."""
    from groundup import api

    facts = api.doctor()
    result(facts, listing(facts), as_json=common.json)
