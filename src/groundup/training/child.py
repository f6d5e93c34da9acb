"""A verb of the command line in a process of its own: its memory is its own, and its crash is not ours.

The child is asked to stop by closing its standard input, and so it stops when its parent is killed too: it then gets a
polite kill, on which a run finishes its update and saves.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from groundup.core.errors import GroundupError

_WATCH = """
import os, signal, sys, threading
def watch():
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)
threading.Thread(target=watch, daemon=True).start()
"""

VERB = "from groundup.cli.main import main\nsys.exit(main())\n"


class ChildError(GroundupError):
    """The child failed; the text is its own last word. `hopeless`: it says that what was asked for cannot be done."""

    def __init__(self, text: str, *, hopeless: bool):
        super().__init__(text)
        self.hopeless = hopeless


def run(
    words: Sequence[str],
    *,
    log: Path,
    answer: Path | None = None,
    code: str = VERB,
    on_line: Callable[[str], None] = lambda line: None,
    held: Sequence[int] = (),
) -> None:
    """Run these words as a command line of groundup (or other `code` with them as its arguments) and wait for the end.

    log      what it says is added here, and told by `on_line` a line at a time
    answer   gets its standard output, when it has ended well
    held     file descriptors that stay open in the child
    Raises ChildError. A KeyboardInterrupt waits until the child has saved; a second one kills it.
    """
    part = answer and answer.with_name(f".{answer.name}.part")
    said: list[str] = []
    with log.open("a", encoding="utf-8") as kept, (part or Path(os.devnull)).open("wb") as out:
        child = subprocess.Popen(
            [sys.executable, "-P", "-c", _WATCH + code, *words],
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=subprocess.PIPE,
            pass_fds=held,
            start_new_session=True,  # Ctrl-C in the terminal reaches us alone, and the child once, through us
        )
        assert child.stdin is not None and child.stderr is not None
        try:
            for raw in child.stderr:
                line = raw.decode("utf-8", "replace").rstrip("\n")
                kept.write(line + "\n")
                kept.flush()
                said.append(line)
                on_line(line)
            child.wait()
        except BaseException:
            try:
                child.stdin.close()
                kept.write(child.stderr.read().decode("utf-8", "replace"))
                child.wait()
            except BaseException:
                child.kill()
                child.wait()
                raise
            raise
        finally:
            child.stdin.close()
            child.stderr.close()
    if child.returncode:
        raise ChildError(_reason(said, child.returncode), hopeless=child.returncode == 2)
    if part is not None and answer is not None:
        part.replace(answer)


def _reason(said: Sequence[str], code: int) -> str:
    if code < 0:
        more = " (out of memory?)" if -code == signal.SIGKILL else ""
        return f"it was killed by signal {-code}{more}"
    words = [line.removeprefix("groundup: ") for line in said if line.startswith("groundup: ")]
    return (words or [line for line in said if line.strip()] or [f"it ended with code {code}"])[-1]
