import contextlib
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import groundup as gu
from groundup.cli.main import main
from groundup.core.errors import UsageError
from groundup.training import child
from groundup.training.untouched import as_it_is

sys.path.insert(0, str(Path(__file__).parent))  # tests here share the tiny model of test_training


@pytest.fixture
def one_thread() -> Iterator[None]:
    """For models so small that two threads wait for each other longer than they work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Here:
    """Runs verbs in this process, which is quicker, and remembers them."""

    def __init__(self) -> None:
        self.ran: list[list[str]] = []
        self.stop_at: int | None = None

    def __call__(
        self, words: Any, *, log: Path, answer: Path | None = None, code: str = child.VERB, on_line: Any, held: Any = ()
    ) -> None:
        if len(self.ran) == self.stop_at:
            raise KeyboardInterrupt
        self.ran.append(list(words))
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            if code is child.VERB:
                ended = main(words)
            else:
                asked = json.loads(words[0])
                try:
                    print(json.dumps(as_it_is(gu.load(asked["model"], dtype=asked["dtype"]), asked)))
                    ended = 0
                except UsageError as error:
                    print(f"groundup: {error}", file=err)
                    ended = 2
        said = err.getvalue().splitlines()
        for line in said:
            on_line(line)
        if ended:
            raise child.ChildError(child._reason(said, ended), hopeless=ended == 2)
        if answer is not None:
            answer.write_text(out.getvalue())

    @property
    def verbs(self) -> list[str]:
        return [words[0].split("{")[0] or "loss" for words in self.ran]


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, one_thread: None) -> Here:
    runs = Here()
    monkeypatch.setattr(child, "run", runs)
    return runs
