"""Methods side by side: what is asked, what is run and what is not run again, and what is recommended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import scipy.stats
from test_methods import TEXTS, model

import groundup as gu
from groundup.core.errors import UsageError
from groundup.core.machine import peak_memory
from groundup.data import rows
from groundup.peft.ia3 import IA3
from groundup.peft.lora import LoRA
from groundup.peft.prompt import Prompt
from groundup.peft.texts import label, parse
from groundup.training import child, trials
from groundup.training.compared import _STUDENT, Compared, Trial, over_seeds
from groundup.training.untouched import validation_loss

QUICK = {"steps": 2, "batch": 8, "precision": "float32"}
ASKED = [{"prompt": f"say {'abcdefgh'[i % 8]}", "completion": "abcdefgh"[i % 8]} for i in range(16)]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gu.save(model(), tmp_path_factory.mktemp("base") / "tiny")


# --- what is asked ----------------------------------------------------------------------------------------------------


def test_methods_are_read_from_a_text() -> None:
    assert parse("lora, ia3,prompt") == [LoRA(), IA3(), Prompt()]
    assert parse("lora:rank=8,targets=attn.q attn.v,dora=true;ia3;prompt:length=20") == [
        LoRA(rank=8, targets="attn.q attn.v", dora=True), IA3(), Prompt(length=20),
    ]  # fmt: skip
    assert parse("prompt:init=text,text=Sort this, please,length=3") == [
        Prompt(init="text", text="Sort this, please", length=3)
    ]
    assert [label(m) for m in parse("lora;lora:rank=3")] == ["lora", "lora rank=3"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("lora,lore", "no method 'lore'; there are lora, ia3"),
        ("lora,ia3:targets=all", "divide methods that have settings by ;"),
        ("lora:rank", "'rank' is no setting NAME=VALUE; its settings are rank, alpha"),
        ("ia3:rank=2", "its settings are targets, feedforward"),
        ("lora:rank=many", "rank = 'many'"),
        ("lora,lora", "'lora' stands twice"),
        (" , ", "no method is named"),
    ],
)
def test_what_is_no_method_is_said(text: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=says):
        gu.compare("none", ASKED, methods=text, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_folders_differ_where_methods_do() -> None:
    long = [trials._folder(f"prompt text={'x' * 80}{i}") for i in range(2)]
    odd = [trials._folder(f"lora targets={t}") for t in ("attn.q", "attn/q", "attn.q attn.v")]
    assert len({*long, *odd}) == 5 and all("/" not in name and len(name) < 80 for name in [*long, *odd])
    assert trials._folder("lora rank=8") == "lora-rank=8"


# --- what is recommended ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 3, 7, 30])
def test_the_interval_over_seeds_is_students(count: int) -> None:
    scores = [0.5 + 0.01 * (i * i % 7) for i in range(count)]
    found = over_seeds("accuracy", scores)
    low, high = scipy.stats.t.interval(0.95, count - 1, loc=scipy.stats.tmean(scores), scale=scipy.stats.sem(scores))
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-4)
    assert list(_STUDENT) == pytest.approx([scipy.stats.t.ppf(0.975, n) for n in range(1, 30)], rel=1e-4)


def line(name: str, scores: tuple[float, ...], trained: int, score: str = "exact match", seconds: float = 10) -> Trial:
    many = len(scores)
    return Trial(name, score, scores, scores, (seconds,) * many, (10**9,) * many, trained, 4 * trained)


def compared(*trials: Trial, untouched: float = 0.1, seeds: int = 3) -> Compared:
    return Compared(trials[0].score, (Trial("untouched", trials[0].score, (untouched,)), *trials), seeds)


def test_the_cheapest_that_comes_up_to_the_best_is_taken() -> None:
    full, ia3 = line("full", (0.80, 0.84, 0.82), 10**6), line("ia3", (0.79, 0.82, 0.83), 10**3)
    close = compared(full, ia3)
    assert [t.name for t in close.choice() if t] == ["ia3", "full"]
    said = close.recommendation()
    assert said.startswith("Take ia3: its exact match of 0.813 [0.762, 0.865] is within one standard error of that of")
    assert "over 3 seeds" in said and "1,000 trained numbers" in said and "against 1,000,000" in said
    # the negative control: with worse scores of the cheap one, the dear one is taken
    far = compared(full, replace(ia3, scores=(0.69, 0.71, 0.70)))
    assert [t.name for t in far.choice() if t] == ["full", "full"]
    assert "no cheaper method comes up to it" in far.recommendation()
    # and where both are equally cheap, the quicker one
    quick = compared(full, replace(full, name="freeze", seconds=(5.0, 5.0, 5.0)))
    assert quick.choice()[0].name == "freeze"


def test_less_loss_is_better() -> None:
    trials = line("full", (1.0, 1.1, 1.05), 10**6, "validation loss"), line("ia3", (2, 2.1, 2.05), 9, "validation loss")
    assert compared(*trials, untouched=3).choice()[0].name == "full"
    assert compared(*(replace(t, score="accuracy") for t in trials)).choice()[0].name == "ia3"


def test_no_better_than_untouched_is_not_taken() -> None:
    trials = line("full", (0.80, 0.84, 0.82), 10**6), line("ia3", (0.4, 0.9, 0.6), 9)
    assert compared(*trials, untouched=0.1).choice()[0].name == "full"  # that ia3 is uncertain does not speak for it
    assert compared(*trials, untouched=0.7).choice()[0].name == "full"
    found = compared(*trials, untouched=0.9)
    assert found.choice()[0] is found.untouched and "Keep the untouched model" in found.recommendation()


def test_one_seed_has_no_spread_and_an_unfinished_method_is_not_taken() -> None:
    one = compared(line("full", (0.8,), 10**6), line("ia3", (0.79,), 9), seeds=1)
    assert one.choice()[0].name == "full" and "spread over seeds is unknown" in one.recommendation()
    assert "[" not in one.text()
    lost = replace(line("ia3", (0.9,), 9), why="out of memory")
    two = compared(line("full", (0.8, 0.81), 10**6), lost, seeds=2)
    assert two.choice()[0].name == "full" and "the only method" in two.recommendation()
    assert "ia3 failed: out of memory (1 of 2 seeds are finished)" in two.text()
    none = compared(replace(lost, scores=()), seeds=2)
    assert none.choice() == (None, None) and "nothing to recommend" in none.text()


# --- what is run ------------------------------------------------------------------------------------------------------


def test_a_comparison_and_what_it_does_not_do_again(base: Path, here: Any, tmp_path: Path) -> None:
    out, told = tmp_path / "out", []

    def again(methods: str = "lora:rank=2;bitfit;prompt:length=3", seeds: int = 2, **more: Any) -> Compared:
        return gu.compare(
            base, TEXTS, methods=methods, out=out, seeds=seeds, on_progress=lambda *n, more="": told.append((n, more)),
            **{**QUICK, **more},
        )  # fmt: skip

    found = again()
    assert here.verbs == ["loss", "finetune", "finetune", "finetune", "finetune", "finetune"]  # bitfit once: no biases
    assert [t.name for t in found.trials] == ["untouched", "lora rank=2", "bitfit", "prompt length=3"]
    lora, bitfit, prompt = found.trials[1:]
    assert "bitfit trains biases, and this model has none" in str(bitfit.why) and bitfit.scores == ()
    wanted = LoRA(rank=2).trained(gu.adapt(model(), LoRA(rank=2)).network, "mine")
    assert lora.trained == sum(p.numel() for p in wanted.values()) and lora.size > 0
    assert prompt.trained == 3 * 36
    assert len(lora.scores) == len(lora.seconds) == 2 and lora.scores[0] != lora.scores[1]
    assert min(lora.memory) > 10**7
    assert "bitfit failed: bitfit trains biases" in found.text() and "Take " in found.text()
    assert told[-1][0] == (7, 7) and any(more.startswith("lora rank=2, seed 1") for _, more in told)
    kept = json.loads((out / "results.json").read_text())
    assert kept["take"] == found.choice()[0].name and kept["trials"][1]["scores"] == list(lora.scores)
    assert (out / "compare.png").stat().st_size > 10_000

    here.ran.clear()
    assert again().to_dict() == found.to_dict()
    assert here.verbs == ["finetune"]  # what failed is tried again, nothing else
    here.ran.clear()
    more = again("lora:rank=2;ia3", seeds=3)
    assert here.verbs == ["finetune"] * 4  # a seed of lora, three of ia3
    assert more.trials[1].scores[:2] == lora.scores

    with pytest.raises(UsageError, match=r"another settings .*now .*: give the same, or name another --out"):
        again(steps=3)
    with pytest.raises(UsageError, match="another train"):
        gu.compare(base, TEXTS[:-1], methods="lora", out=out, **QUICK)
    (tmp_path / "other").mkdir()
    with pytest.raises(UsageError, match="is no comparison"):
        gu.compare(base, TEXTS, methods="lora", out=tmp_path / "other", **QUICK)
    # a run that was put there by hand
    run = json.loads((out / "ia3" / "seed-0" / "run.json").read_text())
    run["settings"]["steps"] = 50
    (out / "ia3" / "seed-0" / "run.json").write_text(json.dumps(run))
    with pytest.raises(UsageError, match="a run of other settings"):
        again("ia3")


def test_it_goes_on_where_it_was_stopped(base: Path, here: Any, tmp_path: Path) -> None:
    def start(out: str) -> Compared:
        return gu.compare(base, TEXTS, methods="lora,ia3", out=tmp_path / out, seeds=2, **QUICK)

    whole = start("whole")
    here.ran.clear()
    here.stop_at = 3
    with pytest.raises(KeyboardInterrupt):
        start("broken")
    here.ran.clear()
    here.stop_at = None
    again = start("broken")
    assert here.verbs == ["finetune"] * 2
    assert [t.scores for t in again.trials] == [t.scores for t in whole.trials]


def test_the_score_of_a_test(base: Path, here: Any, tmp_path: Path) -> None:
    found = gu.compare(
        base, ASKED, methods="lora,full", out=tmp_path / "out", seeds=1, test=ASKED[:4], metrics=["exact-match"],
        answer_tokens=2, **QUICK,
    )  # fmt: skip
    assert here.verbs == ["evaluate", "finetune", "evaluate", "finetune", "evaluate"]
    assert found.score == "exact match" and all(len(t.scores) == 1 for t in found.trials)
    assert here.ran[2][2] == f"--adapter={tmp_path / 'out' / 'lora' / 'seed-0'}"
    assert here.ran[4][1] == str(tmp_path / "out" / "full" / "seed-0")  # the whole model
    assert found.trials[2].size > 10 * found.trials[1].size
    with pytest.raises(UsageError, match="metrics are of answers to a test"):
        gu.compare(base, ASKED, methods="lora", out=tmp_path / "two", metrics=["exact-match"])


def test_what_the_untouched_model_cannot_do_stops_all(here: Any, tmp_path: Path, base: Path) -> None:
    with pytest.raises(UsageError, match="no-such"):
        gu.compare(
            base, ASKED, methods="lora", out=tmp_path / "out", test=ASKED, metrics=["no-such"], answer_tokens=2, **QUICK
        )
    assert here.verbs == ["evaluate"] and not (tmp_path / "out").exists()
    with pytest.raises(UsageError, match="seeds is 31"):
        gu.compare(base, ASKED, methods="lora", out=tmp_path / "out", seeds=31)


def test_every_run_has_the_same_rows(base: Path, here: Any, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ASKED))
    gu.compare(base, file, methods="ia3", out=tmp_path / "out", seeds=2, **QUICK)
    train, valid = rows.split(rows.read(file), count=1)
    data = tmp_path / "out" / "data"
    assert rows.read(data / "train.jsonl").rows == train.rows
    assert rows.read(data / "validation.jsonl").rows == valid.rows
    digests = {
        json.loads((tmp_path / "out" / "ia3" / f"seed-{seed}" / "run.json").read_text())["data"] for seed in (0, 1)
    }
    assert len(digests) == 1


def test_the_loss_of_the_untouched_model_is_that_of_a_run(base: Path, tmp_path: Path) -> None:
    lm = gu.load(base)
    run = gu.finetune(
        gu.adapt(lm, LoRA()), TEXTS[4:], validation=_file(tmp_path, TEXTS[:4]), out=tmp_path / "run", steps=1,
        learning_rate=1e-30, precision="float32",
    )  # fmt: skip
    assert validation_loss(lm, TEXTS[:4], batch=3) == pytest.approx(run.best_loss, rel=1e-6)
    other = gu.adapt(lm, Prompt(length=3))
    assert validation_loss(other, TEXTS[:4]) == pytest.approx(run.best_loss, rel=1e-6)  # as it is, unadapted


def _file(folder: Path, given: list[dict[str, Any]]) -> Path:
    path = folder / "validation.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in given))
    return path


# --- processes --------------------------------------------------------------------------------------------------------


def test_a_child_answers_says_and_fails(tmp_path: Path) -> None:
    log, answer, lines = tmp_path / "log", tmp_path / "answer", list[str]()
    code = "print(sys.argv[1]); print('one\\ntwo', file=sys.stderr)"
    child.run(["hello"], log=log, answer=answer, code=code, on_line=lines.append)
    assert answer.read_text() == "hello\n" and lines == ["one", "two"] and log.read_text() == "one\ntwo\n"
    for code, says, hopeless in [
        ("print('groundup: no such file\\nSee: x', file=sys.stderr); sys.exit(2)", "no such file", True),
        ("raise ValueError('odd')", "ValueError: odd", False),
        ("os.kill(os.getpid(), 9)", r"killed by signal 9 \(out of memory\?\)", False),
        ("sys.exit(7)", "ended with code 7", False),
    ]:
        with pytest.raises(child.ChildError, match=says) as failed:
            child.run([], log=log, answer=tmp_path / "none", code=code)
        assert failed.value.hopeless == hopeless
    assert not (tmp_path / "none").exists()


WAITS = """
import time
signal.signal(signal.SIGTERM, lambda *_: (open(sys.argv[1], 'w').write('saved'), sys.exit(0)))
print('ready', file=sys.stderr, flush=True)
time.sleep(60)
"""


def test_a_child_saves_when_it_is_interrupted(tmp_path: Path) -> None:
    def stop(line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        child.run([str(tmp_path / "kept")], log=tmp_path / "log", code=WAITS, on_line=stop)
    assert (tmp_path / "kept").read_text() == "saved"


def test_a_child_saves_when_its_parent_is_killed(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    code = f"from pathlib import Path\nfrom groundup.training import child\nchild.run([{str(kept)!r}], log=Path({str(tmp_path / 'log')!r}), code={WAITS!r})"
    parent = subprocess.Popen([sys.executable, "-c", code])
    try:
        _until(lambda: (tmp_path / "log").exists() and "ready" in (tmp_path / "log").read_text())
    finally:
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
    _until(kept.exists)


def _until(happened: Any, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def test_the_memory_of_a_child_is_its_own(tmp_path: Path) -> None:
    held = bytearray(b"1") * (200 << 20)
    if not Path("/proc/self/status").exists():
        pytest.skip("what a process held is known apart on Linux alone")
    child.run(
        [], log=tmp_path / "log", answer=tmp_path / "peak",
        code="import resource\nfrom groundup.core.machine import peak_memory\n"
             "print(peak_memory(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)",
    )  # fmt: skip
    own, inherited = map(int, (tmp_path / "peak").read_text().split())
    assert own < len(held) + 100 * 2**20 < peak_memory()
    assert inherited >= own


@pytest.mark.slow
def test_a_comparison_that_was_killed_ends_as_one_that_was_not(base: Path, tmp_path: Path) -> None:
    data = _file(tmp_path, TEXTS)

    def words(out: Path) -> list[str]:
        code = "import sys\nfrom groundup.cli.main import main\nsys.exit(main())"
        flags = ["--steps=60", "--batch=8", "--precision=float32", "--save-every=0.1", "--seeds=1", f"--out={out}"]
        return [sys.executable, "-c", code, "compare", str(base), f"--data={data}", "--methods=lora,ia3", *flags]

    subprocess.run(words(tmp_path / "whole"), check=True, capture_output=True)
    first = subprocess.Popen(words(tmp_path / "broken"), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    run = tmp_path / "broken" / "lora" / "seed-0"
    try:
        _until(lambda: list(run.glob("state-*")))
    finally:
        first.kill()
        first.wait()
    assert not (run / "done.json").exists()
    done = subprocess.run(words(tmp_path / "broken"), check=True, capture_output=True, text=True)
    assert "Take " in done.stdout
    one, two = (json.loads((tmp_path / name / "results.json").read_text())["trials"] for name in ("whole", "broken"))
    assert [t["scores"] for t in one] == [t["scores"] for t in two]
    assert "going on with" in (tmp_path / "broken" / "lora" / "seed-0.log").read_text()
