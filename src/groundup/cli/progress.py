"""How far a long job is: one live line on a terminal, a plain line now and then where there is none.

step 12/140 ━━━━━━╺━━━━━━ 0:04:10 left  loss 1.234  lr 9.5e-04  812 tokens/s  peak 3.8 GB
"""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import IO, TYPE_CHECKING

from groundup.cli.output import safe
from groundup.core.files import size

if TYPE_CHECKING:
    from rich.live import Live

PLAIN_SECONDS = 10.0


class Progress:
    """Use it as a context manager and call `update` as often as you like."""

    def __init__(self, what: str = "step", *, stream: IO[str] | None = None, seconds: float = PLAIN_SECONDS) -> None:
        self.what, self.stream, self.seconds = what, stream or sys.stderr, seconds
        self.began = time.monotonic()
        self.first: tuple[float, float] | None = None
        self.shown: float | None = None
        self.last = ""
        self.live: Live | None = None

    def __enter__(self) -> Progress:
        if self.stream.isatty():
            from rich.console import Console
            from rich.live import Live

            self.live = Live(console=Console(file=self.stream, highlight=False), refresh_per_second=5)
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live:
            self.live.stop()
        elif self.last:
            self._print()

    def update(
        self,
        done: float,
        total: float | None = None,
        *,
        loss: float | None = None,
        lr: float | None = None,
        tokens_per_second: float | None = None,
        peak_memory: float | None = None,
        seconds_left: float | None = None,
        more: str = "",
    ) -> None:
        """`done` of `total`, and what is known beside it; memory in bytes. Without `seconds_left` the pace so far says
        how long it takes."""
        left = self._left(done, total) if seconds_left is None else seconds_left
        if done == total:
            left = None
        facts = [
            None if left is None else f"{clock(left)} left",
            None if loss is None else f"loss {loss:.4g}",
            None if lr is None else f"lr {lr:.2g}",
            None if tokens_per_second is None else f"{tokens_per_second:.0f} tokens/s",
            None if peak_memory is None else f"peak {size(peak_memory)}",
            safe(more) or None,
        ]
        count = f"{self.what} {done:g}" + ("" if total is None else f"/{total:g}")
        rest = "  ".join(fact for fact in facts if fact)
        self.last = f"{count}  {rest}".rstrip()
        if self.live:
            self._draw(count, done, total, rest)
        elif self.shown is None or time.monotonic() - self.shown >= self.seconds:
            self._print()

    def say(self, text: str) -> None:
        """A line of its own, above the live one."""
        if self.live:
            from rich.text import Text

            self.live.console.print(Text(safe(text)))
        else:
            print(safe(text), file=self.stream, flush=True)

    def _left(self, done: float, total: float | None) -> float | None:
        now = time.monotonic()
        if self.first is None:
            self.first = (done, now)
        begin, at = self.first
        if total is None or done <= begin:
            return None
        return (now - at) / (done - begin) * max(0.0, total - done)

    def _print(self) -> None:
        print(self.last, file=self.stream, flush=True)
        self.shown, self.last = time.monotonic(), ""

    def _draw(self, count: str, done: float, total: float | None, rest: str) -> None:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        line = Table.grid(padding=(0, 1))
        line.add_row(Text(count), ProgressBar(total=total, completed=done, width=20), Text(rest, style="dim"))
        if self.live:
            self.live.update(line)


def clock(seconds: float) -> str:
    """0:04:10"""
    whole = max(0, round(seconds))
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"
