"""A stand-in for groundup.api that records what the verbs ask of it, and holds them to the real signatures."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from groundup import api, model
from groundup.evaluation.report import Report
from groundup.training.loop import Run
from groundup.training.range_test import Rates


class Recorder:
    """The calls that were made, as (name, bound arguments)."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.fail: BaseException | None = None

    def record(self, name: str, real: Callable[..., Any], /, *args: Any, **kwargs: Any) -> dict[str, Any]:
        found = dict(inspect.signature(real).bind(*args, **kwargs).arguments)
        found |= found.pop("how", {})  # what the api takes as **how
        self.calls.append((name, found))
        return found

    def __getitem__(self, name: str) -> dict[str, Any]:
        """The arguments of the last call of this name."""
        return [arguments for called, arguments in self.calls if called == name][-1]

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.calls]


class FakeModel:
    """Answers every prompt by its own text, in two pieces."""

    tokenizer = None
    notes = ("a note of the load",)

    def __init__(self, calls: Recorder) -> None:
        self._calls = calls

    def generate(self, *args: Any, **kwargs: Any) -> str | list[str]:
        found = self._calls.record("generate", model.Model.generate, self, *args, **kwargs)
        return found["prompt"].upper() if found.get("n", 1) == 1 else [found["prompt"].upper()] * found["n"]

    def stream(self, *args: Any, **kwargs: Any) -> Iterator[str]:
        found = self._calls.record("stream", model.Model.stream, self, *args, **kwargs)
        asked = found["prompt"]
        text = asked if isinstance(asked, str) else asked[-1]["content"]
        yield text.upper()
        if self._calls.fail:
            raise self._calls.fail
        yield "\x1b!"

    def answer(self, *args: Any, **kwargs: Any) -> list[str]:
        found = self._calls.record("answer", model.Model.answer, self, *args, **kwargs)
        answers = []
        for index, prompt in enumerate(found["prompts"]):
            text = prompt if isinstance(prompt, str) else prompt[-1]["content"]
            found["on_answer"](index, text.upper())
            answers.append(text.upper())
            if self._calls.fail and index == 1:
                raise self._calls.fail
        return answers

    def info(self) -> dict[str, Any]:
        return {"family": "fake", "parameters": 3, "name": "evil \x1b"}


def _run(out: Path) -> Run:
    return Run(out, out / "best", out / "last", 9, 6, 0.5, 0.75, 2.0, 12.5, 1234, 567, 89, 10**9)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """What the verbs asked of the api."""
    recorder = Recorder()
    fake = FakeModel(recorder)

    def stand_in(name: str, answer: Callable[[dict[str, Any]], Any]) -> None:
        real = getattr(api, name)

        def called(*args: Any, **kwargs: Any) -> Any:
            found = recorder.record(name, real, *args, **kwargs)
            if recorder.fail and name in ("finetune", "evaluate"):
                raise recorder.fail
            return answer(found)

        monkeypatch.setattr(api, name, called)

    stand_in("load", lambda found: fake)
    stand_in("adapt", lambda found: fake)
    stand_in("merge", lambda found: fake)
    stand_in("save", lambda found: None)
    stand_in("doctor", lambda found: {"torch": "2", "memory": {"total": "23 GB"}})
    stand_in("finetune", lambda found: _run(Path(found["out"])))
    stand_in("find_learning_rate", lambda found: Rates(2e-3, 2e-3, 5e-3, None, (1e-3, 2e-3), (1.0, 0.5), (1.0, 0.5)))
    stand_in("evaluate", lambda found: Report.of("mine", ["a", "b"], ["a", "a"], metrics=["exact-match"]))
    return recorder
