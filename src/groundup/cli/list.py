"""`groundup list`: what can be had through the package index."""

from __future__ import annotations

from groundup.cli.options import Common
from groundup.cli.output import result, size

EXAMPLE = "groundup list"


def run(*, common: Common = Common()) -> None:
    """List the starters: small real models and rows of data that come through the package index."""
    from groundup.checkpoints.starters import STARTERS
    from groundup.core.files import cache_dir

    found = [
        {"name": name, "kind": starter.kind, "size": starter.size, "licence": starter.licence}
        for name, starter in STARTERS.items()
    ]
    lines = [f"{each['name']:24} {each['kind']:10} {size(each['size']):>7}  {each['licence']}" for each in found]
    result({"starters": found, "cache": str(cache_dir())}, "\n".join(lines), as_json=common.json)
