"""What `groundup estimate` says, beside what the same run then holds and takes: one epoch over 96 news rows on the starter.

Every estimate and every run is a process of its own. Both are in bytes of the whole process and in tokens a second; the
promise is that they differ by a tenth at most.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

MODEL, ROWS = "smollm2-135m-instruct", 96
CASES = {
    "lora, batch 16": "--method lora --batch 16",
    "lora, batch 16, checkpointing": "--method lora --batch 16 --checkpointing",
    "lora, batch 4, accumulate 4": "--method lora --batch 4 --accumulate 4",
    "qlora, batch 16": "--method qlora --batch 16",
    "prompt, batch 16": "--method prompt --batch 16",
    "full, batch 8": "--method full --batch 8",
    "full, batch 8, lomo": "--method full --batch 8 --optimizer lomo --learning-rate 0.01",
}


def groundup(*words: str) -> dict:
    verb = [str(Path(sys.executable).with_name("groundup")), *words, "--json"]
    return json.loads(subprocess.run(verb, check=True, stdout=subprocess.PIPE, text=True).stdout)


def main() -> None:
    from groundup.data import news

    folder = Path(tempfile.mkdtemp())
    news.make(folder)
    lines = (folder / "train.jsonl").read_text().splitlines(keepends=True)
    data, valid = folder / "few.jsonl", folder / "valid.jsonl"
    data.write_text("".join(lines[:ROWS]))
    valid.write_text("".join(lines[ROWS : ROWS + 4]))
    print("| | peak expected | held | ratio | by the run itself | tokens a second expected | measured | ratio |")
    print("|---|---|---|---|---|---|---|---|")
    chosen = sys.argv[1:] or list(CASES)
    for number, name in enumerate(chosen):
        flags = [*CASES[name].split(), "--data", str(data), "--validation", str(valid), "--precision", "float32"]
        told = groundup("estimate", MODEL, *flags)
        run = groundup("finetune", MODEL, *flags, "--out", str(folder / f"run{number}"), "--epochs", "1")
        peak, speed = run["peak_memory"], run["tokens"] / run["seconds"]
        own, expected = run["expected_memory"], told["tokens_per_second"]
        print(
            f"| {name} | {told['peak'] / 1e9:.2f} GB | {peak / 1e9:.2f} GB | {told['peak'] / peak:.2f} | "
            f"{own / peak:.2f} | {expected:.0f} | {speed:.0f} | {expected / speed:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
