"""What is said of runs: how a stopped one goes on, and what a finished one left."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from groundup.cli.options import typed
from groundup.cli.output import note
from groundup.cli.progress import clock
from groundup.core.files import size

if TYPE_CHECKING:
    from groundup.training.loop import Run


@contextmanager
def resumable(begun: Path, *flags: str) -> Iterator[None]:
    """Put this around all that shows progress: after Ctrl-C its last line is the command that goes on.

    begun  the file without which nothing was begun; flags: what the command needs beside its own words
    """
    try:
        yield
    except KeyboardInterrupt:
        if begun.exists():
            again = [word for word in typed if word not in flags]
            note(f"stopped and saved; go on with:\n  {shlex.join(['groundup', *again, *flags])}")
        raise


def left(done: Run) -> str:
    """Which weights a finished run kept, which of them validated best, and what it took."""
    kept = [("best", done.best_step, done.best_loss, done.best), ("last", done.steps, done.last_loss, done.last)]
    if done.average is not None and done.average_loss is not None:
        kept.append(("average", done.average_step, done.average_loss, done.average))
    least = min(kept, key=lambda each: each[2])
    wide = max(len(name) for name, *_ in kept)
    lines = [f"{name:{wide}}  step {step}, validation loss {loss:.4f}  {path}" for name, step, loss, path in kept]
    if least[0] == "average":
        lines[-1] += "  <- the lowest: groundup generate " + shlex.quote(str(done.average))
    expected = "" if done.expected_memory is None else f" ({size(done.expected_memory)} expected)"
    return "\n".join(lines) + (
        f"\n{done.rows} rows, {done.tokens:,} tokens ({done.trained_tokens:,} trained) in {clock(done.seconds)}, "
        f"peak memory {size(done.peak_memory)}{expected}"
    )
