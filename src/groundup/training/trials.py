"""The runs of a comparison: what is missing is run, each in a process of its own, and what is there is read."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from groundup.core.errors import UsageError
from groundup.core.files import read_json
from groundup.evaluation.report import Report
from groundup.peft.method import Method
from groundup.peft.texts import changed
from groundup.training import child
from groundup.training.compared import UNTOUCHED, Trial

LOSS = "validation loss"

_AS_IT_IS = """
import json, groundup
from groundup.core.errors import UsageError
from groundup.training.untouched import as_it_is
asked = json.loads(sys.argv[1])
try:
    model = groundup.load(asked["model"], revision=asked["revision"], device=asked["device"], dtype=asked["dtype"])
    print(json.dumps(as_it_is(model, asked)))
except UsageError as error:
    print(f"groundup: {error}", file=sys.stderr)
    sys.exit(2)
"""


class Trials:
    """Runs what is missing in a comparison's folder, and reads what is there."""

    def __init__(
        self,
        out: Path,
        asked: dict[str, Any],
        formats: dict[str, str],
        tested: bool,
        threads: int | None,
        held: tuple[int, ...],
        say: Callable[[str], None],
        on_progress: Callable[..., None] | None,
        total: int,
    ):
        self.out, self.asked, self.formats, self.tested = out, asked, formats, tested
        self.threads, self.held, self.say, self.on_progress = threads, held, say, on_progress
        self.done, self.total = 0, total

    # --- running ------------------------------------------------------------------------------------------------------

    def untouched(self) -> Trial:
        """The model as it is, judged as the methods are; a constant where it has no head for the rows' labels."""
        folder = self.out / "untouched"
        folder.mkdir(exist_ok=True)
        log, answer = folder / "untouched.log", folder / "untouched.json"
        if not answer.exists():
            if self.tested and not self.asked["labels"]:
                self._evaluate(self._model(), log, answer, UNTOUCHED)
            else:
                job = {
                    "model": self.asked["model"], "revision": self.asked["revision"], "device": self.asked["device"],
                    "dtype": self.formats["answer" if self.tested else "train"], "train": str(self._rows("train")),
                    "data": str(self._rows("test" if self.tested else "validation")), "report": self.tested,
                    "labels": self.asked["labels"], "label": self.asked["aim"].get("label"),
                    "problem": self.asked["aim"].get("problem"), "max_tokens": self.asked["max_tokens"],
                    "batch": self.asked["settings"].get("batch", 16),
                }  # fmt: skip
                self._run([json.dumps(job)], log, answer, UNTOUCHED, code=_AS_IT_IS)
        self._count()
        if self.tested:
            report = Report.from_json(answer)
            return Trial(report.name, report.scores[0].name, (report.scores[0].value,), others=_others([report]))
        found = read_json(answer)
        return Trial(found["name"], LOSS, scores=(float(found["loss"]),))

    def trial(self, name: str, method: Method, seed: int, failed: dict[str, child.ChildError]) -> None:
        """One run and its score, where they are missing; why it failed goes into `failed`."""
        place = self.out / _folder(name)
        place.mkdir(exist_ok=True)
        run, log, answer = place / f"seed-{seed}", place / f"seed-{seed}.log", place / f"seed-{seed}.json"
        what = f"{name}, seed {seed}"
        try:
            if name in failed and failed[name].hopeless:
                return  # the other seeds would fail alike
            if not (run / "done.json").exists():
                self._finetune(method, seed, run, log, what)
                facts = read_json(run / "done.json")
                self.say(f"{what}: {LOSS} {facts['best_loss']:.4f}, {facts['seconds']:.0f} s")
            self._own(run, method, seed)
            if self.tested and not answer.exists():
                self._evaluate(self._tuned(method, run), log, answer, what)
                self.say(f"{what}: {Report.from_json(answer).scores[0]}")
        except child.ChildError as error:
            failed[name] = error
            self.say(f"{what} failed: {error}")
        finally:
            self._count()

    def _finetune(self, method: Method, seed: int, run: Path, log: Path, what: str) -> None:
        settings = {**self.asked["settings"], "seed": seed, "precision": self.formats["train"]}
        words = [
            "finetune", self.asked["model"], f"--data={self._rows('train')}", f"--out={run}",
            f"--validation={self._rows('validation')}", f"--method={method.kind}",
            *_flags(changed(method)), *_flags(settings), *_flags(self.asked["aim"]),
            *_flags({"max_tokens": self.asked["max_tokens"]}), *self._place(),
        ]  # fmt: skip
        self._run([*words, "--resume"] if (run / "run.json").exists() else words, log, None, what)

    def _evaluate(self, model: list[str], log: Path, answer: Path, what: str) -> None:
        words = [
            "evaluate", *model, f"--data={self._rows('test')}", f"--max-tokens={self.asked['answer_tokens']}",
            f"--precision={self.formats['answer']}", f"--name={what}", *self._place(), "--json",
        ]  # fmt: skip
        if self.asked["labels"]:
            words += _flags({"label": self.asked["aim"].get("label")})
        if self.asked["metrics"]:
            words.append(f"--metrics={','.join(self.asked['metrics'])}")
        self._run(words, log, answer, what)

    def _run(self, words: list[str], log: Path, answer: Path | None, what: str, code: str = child.VERB) -> None:
        def told(said: str) -> None:
            if self.on_progress is not None and re.match(r"(step|row) \d", said):
                self.on_progress(self.done, self.total, more=f"{what}: {said}")

        if self.on_progress is not None:
            self.on_progress(self.done, self.total, more=what)
        with log.open("a", encoding="utf-8") as file:
            file.write(f"$ groundup {' '.join(words)}\n" if code is child.VERB else f"$ as it is {words[0]}\n")
        child.run(words, log=log, answer=answer, code=code, on_line=told, held=self.held)

    def _count(self) -> None:
        self.done += 1
        if self.on_progress is not None:
            self.on_progress(self.done, self.total)

    def _rows(self, part: str) -> Path:
        return self.out / "data" / f"{part}.jsonl"

    def _place(self) -> list[str]:
        return _flags({"device": self.asked["device"], "threads": self.threads})

    def _model(self) -> list[str]:
        return [self.asked["model"], *_flags({"revision": self.asked["revision"]})]

    def _tuned(self, method: Method, run: Path) -> list[str]:
        return [str(run)] if method.whole else [*self._model(), f"--adapter={run}"]

    # --- reading ------------------------------------------------------------------------------------------------------

    def _own(self, run: Path, method: Method, seed: int) -> None:
        """UsageError for a finished run of other settings than these."""
        kept = read_json(run / "run.json")
        wanted = json.loads(json.dumps({"kind": method.kind, **asdict(method)}))
        settings = {**self.asked["settings"], "seed": seed, "precision": self.formats["train"]}
        same = kept["method"] == wanted and all(
            kept["settings"][name] == value for name, value in settings.items() if name not in ("epochs", "minutes")
        )
        if not same:
            raise UsageError(f"{run} is a run of other settings: remove it, or name another --out")

    def gathered(self, name: str, method: Method, first: int, seeds: int, failed: Exception | None) -> Trial:
        """What the runs of a method left."""
        place = self.out / _folder(name)
        found = []
        for seed in range(first, first + seeds):
            run, answer = place / f"seed-{seed}", place / f"seed-{seed}.json"
            if (run / "done.json").exists() and (answer.exists() or not self.tested):
                found.append((read_json(run / "run.json"), read_json(run / "done.json"), run, answer))
        reports = [Report.from_json(answer) for *_, answer in found] if self.tested else []
        losses = tuple(float(done["best_loss"]) for _, done, *_ in found)
        return Trial(
            name,
            reports[0].scores[0].name if reports else LOSS,
            scores=tuple(report.scores[0].value for report in reports) if self.tested else losses,
            others=_others(reports),
            losses=losses,
            seconds=tuple(float(done["seconds"]) for _, done, *_ in found),
            memory=tuple(int(done["peak_memory"]) for _, done, *_ in found),
            trained=int(found[0][0]["trained_numbers"]) if found else None,
            size=sum(p.stat().st_size for p in (found[0][2] / "best").glob("*.safetensors")) if found else None,
            why=None if failed is None else str(failed),
            bases=tuple(str(kept["base"]["fingerprint"]) for kept, *_ in found),
        )


def _others(reports: Sequence[Report]) -> dict[str, tuple[float, ...]]:
    """The scores behind the first, one a report."""
    names = [score.name for score in reports[0].scores[1:]] if reports else []
    return {name: tuple(report.score(name).value for report in reports) for name in names}


def _flags(settings: dict[str, Any]) -> list[str]:
    """Settings as flags; those that are None are left out."""
    return [
        f"--{name.replace('_', '-')}={str(value).lower() if isinstance(value, bool) else value}"
        for name, value in settings.items()
        if value is not None
    ]


def _folder(name: str) -> str:
    """A method's label as the name of a folder."""
    safe = re.sub(r"[^A-Za-z0-9=.+-]+", "-", name)[:60]
    return safe if safe == name.replace(" ", "-") else f"{safe}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
