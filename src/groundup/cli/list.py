"""`groundup list`: what can be had through the package index."""

from __future__ import annotations

from groundup.cli.options import Common
from groundup.cli.output import result
from groundup.core.files import size

EXAMPLE = "groundup list"


def run(*, common: Common = Common()) -> None:
    """List the starters: small real models and rows of data that come through the package index."""
    from groundup.checkpoints.starters import STARTERS
    from groundup.core.files import cache_dir

    found = [
        {
            "name": name,
            "kind": starter.kind,
            "bytes": starter.size,
            "cached": (cache_dir() / "starters" / name).exists(),
            "licence": starter.licence,
            "description": starter.description,
        }
        for name, starter in STARTERS.items()
    ]
    lines = [
        f"{each['name']:22} {each['kind']:6} {size(STARTERS[str(each['name'])].size):>7}  "
        f"{'in the cache' if each['cached'] else 'not fetched'}\n    {each['description']}; {each['licence']}"
        for each in found
    ]
    result({"starters": found, "cache": str(cache_dir())}, "\n".join(lines), as_json=common.json)
