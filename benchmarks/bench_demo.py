"""The demo's five minutes with transformers + peft on this machine: the same rows, rank, learning rate and schedule.

Both adapters are in PEFT's layout, so one program answers and scores both; the rival trains in this machine's best
number format. Prints a table.  python benchmarks/bench_demo.py [--minutes 5] [--adapter runs/newsroom/lora]
"""

from __future__ import annotations

import argparse
import math
import random
import tempfile
import time
from pathlib import Path

from bench_tune import BATCH, Rival

import groundup as gu
from groundup.core import machine
from groundup.data import encode, news, rows
from groundup.evaluation.report import compare

METRICS = ["json", "field:desk", "rouge-l:headline"]


def train(folder: Path, minutes: float) -> tuple[Path, int]:
    """The rival's run; its adapter and how many rows it saw."""
    tokenizer = gu.load("smollm2-135m-instruct").tokenizer
    given = [encode.encode(r, tokenizer) for r in rows.read(folder / "train.jsonl").rows]
    began = time.monotonic()
    tuner = Rival(machine.choose("train")[0], 1e-3)
    order = random.Random(0)
    seen, limit = 0, minutes * 60
    while (spent := time.monotonic() - began) < limit:
        share = spent / limit  # of the time: warm-up over a twentieth, then half a cosine, as ours
        rate = 1e-3 * min(1.0, share / 0.05 + 0.02) * 0.5 * (1 + math.cos(math.pi * share))
        for group in tuner.optimizer.param_groups:
            group["lr"] = rate
        tuner.update(order.sample(given, BATCH))
        seen += BATCH
    tuner.model.save_pretrained(folder / "rival")
    return folder / "rival", seen


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--minutes", type=float, default=5.0)
    options.add_argument("--adapter", type=Path, help="a run of ours to score beside it; left out, one is made")
    given = options.parse_args()
    folder = Path(tempfile.mkdtemp())
    news.make(folder)
    theirs, seen = train(folder, given.minutes)
    mine = given.adapter
    if mine is None:
        tuned = gu.adapt(gu.load("smollm2-135m-instruct"), gu.LoRA(rank=16, alpha=32, targets="all"))
        run = gu.finetune(tuned, folder / "train.jsonl", out=folder / "mine", minutes=given.minutes)
        mine = run.out
        print(f"groundup: {run.rows} rows in {run.seconds:.0f} s")
    print(f"transformers + peft: {seen} rows in {given.minutes:g} minutes")
    reports = []
    for name, adapter in (("transformers + peft", theirs), ("groundup", mine)):
        model = gu.load("smollm2-135m-instruct", dtype="auto", adapter=adapter)
        reports.append(gu.evaluate(model, folder / "test.jsonl", metrics=METRICS, name=name, max_tokens=64))
    print(compare(reports).text())


if __name__ == "__main__":
    main()
