"""Answers to a file of prompts, kept one by one, so that a killed job goes on where it was.

While the job runs, `OUT.part` holds a first line that says what job this is, and a line for each answer as it comes.
When all are there, `OUT` is written at once, in the order of the prompts, and the part goes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from groundup.cli.options import refuse_existing
from groundup.core.errors import GroundupError, UsageError
from groundup.core.files import atomic_write


class Answers:
    """Use it as a context manager: `done` maps indices to answers that are there already, `add` keeps another one."""

    def __init__(self, out: Path, job: Mapping[str, Any]) -> None:
        self.out = out
        self.part = out.with_name(out.name + ".part")
        self.job = json.loads(json.dumps(job, default=str))
        self.done: dict[int, str] = {}
        self.file: IO[str] | None = None

    def __enter__(self) -> Answers:
        refuse_existing(self.out)
        if self.part.exists():
            self._read()
        else:
            self.part.parent.mkdir(parents=True, exist_ok=True)
            self.part.write_text(json.dumps(self.job) + "\n", encoding="utf-8")
        self.file = self.part.open("a", encoding="utf-8")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.file:
            self.file.close()

    def _read(self) -> None:
        """Take the answers of an earlier run of the same job, and cut off a line that was being written."""
        data = self.part.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        try:
            head, *lines = [json.loads(line) for line in whole.splitlines()]
            self.done = {int(line["index"]): str(line["answer"]) for line in lines}
        except (ValueError, KeyError, TypeError) as error:
            raise GroundupError(f"{self.part} is no part of a job: remove it or name another --out") from error
        if head != self.job:
            other = sorted(key for key in head.keys() | self.job.keys() if head.get(key) != self.job.get(key))
            raise UsageError(
                f"{self.part} belongs to another job ({', '.join(other)} differ): remove it or name another --out"
            )
        if len(whole) < len(data):
            with self.part.open("r+b") as file:
                file.truncate(len(whole))

    def add(self, index: int, answer: str) -> None:
        """Keep the answer to prompt `index`."""
        if self.file is None:
            raise GroundupError(f"{self.part} is not open")
        self.file.write(json.dumps({"index": index, "answer": answer}) + "\n")
        self.file.flush()
        self.done[index] = answer

    def finish(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write OUT: each row with its answer. GroundupError where one is missing."""
        missing = [index for index in range(len(rows)) if index not in self.done]
        if missing:
            raise GroundupError(f"{len(missing)} of {len(rows)} rows have no answer, the first is row {missing[0] + 1}")
        lines = [json.dumps({**row, "answer": self.done[i]}, ensure_ascii=False) + "\n" for i, row in enumerate(rows)]
        atomic_write(self.out, "".join(lines))
        if self.file:
            self.file.close()
        self.part.unlink()
