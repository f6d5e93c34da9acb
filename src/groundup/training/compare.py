"""Methods of tuning side by side: each with several seeds, each run in a process of its own.

    out/compare.json               what was asked; another question is refused
    out/data/*.jsonl               the rows, divided once, so that every run learns and is judged by the same ones
    out/untouched/                 the model as it is, judged alike
    out/lora-rank=8/seed-0/        a run, as `groundup finetune` leaves it (and seed-0.log, seed-0.json beside it)
    out/results.json, compare.png  the table and the picture

A run that is finished is not run again and one that was broken off goes on, so the same call after a kill ends where
the first would have ended. More methods and more seeds may be asked for later.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from groundup import __version__
from groundup.core import machine
from groundup.core.errors import GroundupError, UsageError
from groundup.core.files import atomic_folder, read_json, write_json
from groundup.data import rows
from groundup.data.labelled import has_labels, labelled, labels_in, names_of
from groundup.data.rows import Dataset, Item, Stream
from groundup.data.writing import line
from groundup.peft.method import Method
from groundup.peft.methods import METHODS
from groundup.peft.texts import label, parse
from groundup.training import child
from groundup.training.compared import MOST_SEEDS, Compared, Trial
from groundup.training.settings import Aim, Settings
from groundup.training.trials import Trials

FORMAT = "groundup compare 1"
PATIENCE = 30.0  # seconds that a run which was killed may need to save

Data = str | Path | Sequence[dict[str, Any]]


def compare(
    model: str | Path,
    data: Data,
    *,
    methods: str | Sequence[str | Method],
    out: str | Path,
    seeds: int = 3,
    validation: Data | None = None,
    test: Data | None = None,
    metrics: Sequence[str] = (),
    max_tokens: int | None = None,
    answer_tokens: int = 256,
    revision: str | None = None,
    device: str = "cpu",
    threads: int | None = None,
    on_progress: Callable[..., None] | None = None,
    say: Callable[[str], None] = lambda text: None,
    **settings: Any,
) -> Compared:
    """Tune a model by every method with every seed, and set what each gives beside what it costs.

    model          its name or folder: every run loads it in a process of its own
    methods        "lora,ia3", "lora:rank=8;prompt:length=20", or a list of such words and of methods
    seeds          how many; they count from `seed` (0)
    validation     rows to choose the best step by (left out: a twentieth of the data, at most 32 rows, the same for all)
    test, metrics  rows and scores of `evaluate`, the first of which is the one that counts; without a test it is the
                   validation loss of the best step
    answer_tokens  the longest answer to a test row
    settings       of every run, as in `Settings` and `Aim`: steps, epochs or minutes, learning_rate, batch, label ...
    on_progress(done, total, more=) tells how many runs are done, and how far the present one is

    Rows with labels are judged by the scores of labels, and set beside the model's own head or, where it has none for these
    labels, beside a constant that knows how often each label is. A method that fails is a row that says why. The same call goes on where an earlier one was stopped. Raises UsageError
    for an `out` that was begun with another question, and what the untouched model fails at.
    """
    out = Path(out).expanduser()
    chosen = _chosen(methods)
    if not 1 <= seeds <= MOST_SEEDS:
        raise UsageError(f"seeds is {seeds}: give 1 to {MOST_SEEDS}")
    if metrics and test is None:
        raise UsageError("metrics are of answers to a test: name its rows with --test")
    settings = {name: value for name, value in settings.items() if value is not None}
    aim = Aim(**{f.name: settings.pop(f.name) for f in fields(Aim) if f.name in settings})
    judged = has_labels(data, aim.label)
    if metrics and judged:
        raise UsageError("a head for labels has its own metrics: leave --metrics out")
    first = Settings.named(settings).seed
    settings.pop("seed", None)
    parts = _parts(data, validation, test, aim if judged else None)
    asked: dict[str, Any] = {
        "model": str(model), "revision": revision, "device": device, "max_tokens": max_tokens,
        "metrics": list(metrics), "answer_tokens": answer_tokens, "settings": settings, "labels": judged,
        "aim": {f.name: getattr(aim, f.name) for f in fields(Aim) if getattr(aim, f.name) != f.default},
        **{name: hashlib.sha256(text.encode()).hexdigest() for name, text in parts.items()},
    }  # fmt: skip
    fresh = not out.exists()
    formats = _begun(out, asked, parts)
    with _alone(out) as lock:
        work = Trials(out, asked, formats, "test" in parts, threads, (lock,), say, on_progress, 1 + seeds * len(chosen))
        try:
            untouched = work.untouched()
        except child.ChildError as error:
            if fresh:
                shutil.rmtree(out)
            raise (UsageError if error.hopeless else GroundupError)(str(error)) from None
        failed: dict[str, child.ChildError] = {}
        for seed in range(first, first + seeds):
            for name, method in chosen.items():
                work.trial(name, method, seed, failed)
        trials = [work.gathered(name, method, first, seeds, failed.get(name)) for name, method in chosen.items()]
        _same_base(out, trials)
        compared = Compared(untouched.score, (untouched, *trials), seeds)
        write_json(out / "results.json", compared.to_dict())
        compared.png(out / "compare.png")
    return compared


def _chosen(methods: str | Sequence[str | Method]) -> dict[str, Method]:
    """The methods by their labels. UsageError for one that stands twice, and for none."""
    given = [methods] if isinstance(methods, str) else methods
    found = [m for each in given for m in (parse(each) if isinstance(each, str) else [each])]
    chosen = {label(method): method for method in found}
    if len(chosen) < len(found):
        twice = next(name for name in chosen if sum(label(m) == name for m in found) > 1)
        raise UsageError(f"the method {twice!r} stands twice: name each once")
    if not chosen:
        raise UsageError(f"no method is named; there are {', '.join(METHODS)}")
    return chosen


def _parts(data: Data, validation: Data | None, test: Data | None, aim: Aim | None) -> dict[str, str]:
    """The rows of each part as lines of JSON; `aim` of labels, the validation rows have none that the others lack."""
    items = list(Stream(data).good())
    if validation is None:
        found = rows.Dataset([item.row for item in items], items[0].kind, lines=list(range(len(items))))
        _, split = rows.split(found, count=min(32, max(1, len(found) // 20)))
        held = set(split.lines) if aim is None else _known(labelled(data, aim.label), set(split.lines), aim)
        parts = {
            "train": [item for at, item in enumerate(items) if at not in held],
            "validation": [item for at, item in enumerate(items) if at in held],
        }
    else:
        parts = {"train": items, "validation": list(Stream(validation, part="validation").good())}
    if test is not None:
        parts["test"] = list(Stream(test, part="test").good())
    return {name: _lines(part) for name, part in parts.items()}


def _known(found: Dataset, held: set[int], aim: Aim) -> set[int]:
    """Of the rows that are held out, those of which every label stands in a row that is not, so that it is learned."""
    if labels_in(found, aim.problem).problem == "regression":
        return held
    names = [names_of(row) for row in found.rows]
    seen = set().union(*(each for at, each in enumerate(names) if at not in held))
    return {at for at in held if names[at] <= seen}


def _lines(items: Sequence[Item]) -> str:
    return "".join(line(item.record) + "\n" for item in items)


def _begun(out: Path, asked: dict[str, Any], parts: dict[str, str]) -> dict[str, str]:
    """The number formats of training and answering, from the folder, which is made where it is not there yet.

    UsageError where it is of another question.
    """
    if not out.exists():
        wanted = asked["settings"].get("precision", "auto")
        formats = {
            "train": machine.choose("train")[0] if wanted == "auto" else wanted,
            "answer": machine.choose("answer")[0] if wanted == "auto" else wanted,
        }
        with atomic_folder(out) as folder:
            write_json(folder / "compare.json", {"format": FORMAT, "asked": asked, "precision": formats,
                                                 "version": __version__})  # fmt: skip
            (folder / "data").mkdir()
            for name, text in parts.items():
                (folder / "data" / f"{name}.jsonl").write_text(text, encoding="utf-8", newline="\n")
        return formats
    kept = read_json(out / "compare.json") if (out / "compare.json").exists() else {}
    if kept.get("format") != FORMAT:
        raise UsageError(f"{out} exists and is no comparison: name another --out")
    then, now = kept["asked"], json.loads(json.dumps(asked))
    other = [name for name in {**then, **now} if then.get(name) != now.get(name)]
    if other:
        what = ", ".join(f"{name} ({_short(then.get(name))}, now {_short(now.get(name))})" for name in other)
        raise UsageError(f"{out} was begun with another {what}: give the same, or name another --out")
    found: dict[str, str] = kept["precision"]
    return found


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


@contextmanager
def _alone(out: Path) -> Iterator[int]:
    """Hold the folder for this process and its children; a run that was killed is given time to save."""
    with (out / ".lock").open("w") as file:
        until = time.monotonic() + PATIENCE
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise GroundupError(
                        f"another comparison is at work in {out}, or one that was stopped still saves: wait for it"
                    ) from None
                time.sleep(0.2)
        yield file.fileno()


def _same_base(out: Path, trials: Sequence[Trial]) -> None:
    """UsageError where the model changed between runs."""
    bases = {base for trial in trials for base in trial.bases}
    if len(bases) > 1:
        raise UsageError(f"the runs in {out} are of {len(bases)} different models under one name: begin a new --out")
