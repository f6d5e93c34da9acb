"""Runs one piece of work by several programs, each in a process of its own, in turn, and prints ratios of medians.

A script has one function a program; `compare` calls the script again for each. What a program cannot do here is said
to be missing, never guessed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable

Work = Callable[[], dict[str, float]]


def compare(programs: dict[str, Work], *, rounds: int, title: str, notes: str = "") -> None:
    """Run every program `rounds` times, turn by turn; the first one is the rival that ratios refer to."""
    options = argparse.ArgumentParser()
    options.add_argument("--only")
    options.add_argument("--rounds", type=int, default=rounds)
    given = options.parse_args()
    if given.only:  # a script may compare several times
        if given.only in programs:
            print(json.dumps(programs[given.only]()))
        return
    print(f"{title}\n{notes}".rstrip())
    seen: dict[str, list[dict[str, float]]] = {name: [] for name in programs}
    for _ in range(given.rounds):
        for name in programs:
            done = subprocess.run([sys.executable, sys.argv[0], "--only", name], capture_output=True, text=True)
            if done.returncode:
                last = (done.stderr.strip().splitlines() or ["no word"])[-1]
                print(f"{name}: missing ({last})", flush=True)
                continue
            seen[name].append(json.loads(done.stdout.strip().splitlines()[-1]))
    first = {
        k: statistics.median(r[k] for r in seen[next(iter(programs))]) for k in (seen[next(iter(programs))] or [{}])[0]
    }
    for name, runs in seen.items():
        for key in runs[0] if runs else ():
            values = [r[key] for r in runs]
            middle = statistics.median(values)
            ratio = f"  {middle / first[key]:.2f} x {next(iter(programs))}" if first.get(key) else ""
            print(f"{name:24} {key:22} {middle:9.3f}  ({min(values):.3f} to {max(values):.3f}, n={len(values)}){ratio}")
