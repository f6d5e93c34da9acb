"""What this machine is fast at: a few seconds of measuring, kept in the cache for this processor and these versions.

Number formats are never chosen by habit: bfloat16 products are 4.4 times float32's speed on one processor and a
four-hundredth of it on another.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.nn.functional as F

from groundup.core.files import cache_dir, write_json

T = TypeVar("T")

FORMATS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def processor() -> str:
    """The processor's name, with the instruction sets that decide how fast it multiplies."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    facts = {k.strip(): v.strip() for k, v in fields.items()}
    flags = set(facts.get("flags", facts.get("Features", "")).split())
    sets = [s for s in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "asimd", "bf16") if s in flags]
    model = f"family {facts.get('cpu family', '?')} model {facts.get('model', '?')}"
    return f"{facts.get('model name', platform.machine())}, {model}, {' '.join(sets) or 'no vector sets known'}"


def peak_memory() -> int:
    """The most memory this process has held, in bytes."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        pass  # no Linux: what follows also counts what the process that started this one held at that time
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def resident_memory() -> int:
    """The memory that this process holds now, in bytes; where that is not told, the most it has held."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))
    except (OSError, StopIteration):
        return peak_memory()


def free_memory() -> int:
    """The memory that programs can still have on this machine, in bytes; where that is not told, all there is."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@contextmanager
def threads(count: int) -> Iterator[None]:
    """PyTorch on so many threads meanwhile."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _rate(rows: int, width: int, out: int, dtype: torch.dtype, limit: float = 0.4) -> float:
    """Multiply-adds a second, in units of 10^9 operations (2 a multiply-add), best of a few within the limit."""
    x, w = torch.randn(rows, width).to(dtype), torch.randn(out, width).to(dtype)
    best, until = float("inf"), time.perf_counter() + limit
    with torch.inference_mode():
        while True:
            start = time.perf_counter()
            F.linear(x, w)
            now = time.perf_counter()
            best = min(best, now - start)
            if now > until:
                return 2 * rows * width * out / best / 1e9


def measure() -> dict[str, dict[str, float]]:
    """GFLOP/s of each number format: `train` (many tokens), `prefill` (some), `decode` (one token)."""
    shapes = {"train": (768, 576, 1536), "prefill": (256, 576, 1536), "decode": (1, 2048, 8192)}
    rates: dict[str, dict[str, float]] = {}
    for name, dtype in FORMATS.items():
        quick = _rate(32, 256, 256, dtype, 0.02)  # a format without a fast path would take minutes at full size
        small = quick < 2.0
        rates[name] = {
            work: _rate(min(rows, 64) if small else rows, width, out, dtype)
            for work, (rows, width, out) in shapes.items()
        }
    return rates


def remembered(what: str, measure: Callable[[], T], refresh: bool = False) -> T:
    """`measure()`, from the cache when this processor, thread count and torch were measured before. JSON data only."""
    key = f"{processor()} | torch {torch.__version__} | {torch.get_num_threads()} threads"
    path = cache_dir() / "machine.json"
    known: dict[str, Any] = {}
    if path.exists():
        try:
            known = json.loads(path.read_text())
        except (OSError, ValueError):
            known = {}  # a broken note is measured again
    here = known.setdefault(key, {})
    if refresh or what not in here:
        busy = os.getloadavg()[0] > 0.9 * (os.cpu_count() or 1)
        found = measure()
        if busy:  # what was measured beside other work is used now, and not believed tomorrow
            return found
        here[what] = found
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, known)
    kept: T = here[what]
    return kept


def rates(refresh: bool = False) -> dict[str, dict[str, float]]:
    """What `measure` found on this machine."""
    return remembered("rates", measure, refresh)


def choose(work: str) -> tuple[str, str]:
    """The number format for `train` or `answer`, and the reason in a line.

    An answer is taken as 512 tokens read and 128 written one by one. float32 unless bfloat16 is at least 1.2 times
    as fast.
    """
    measured = rates()

    def seconds(name: str) -> float:
        r = measured[name]
        return 1 / r["train"] if work == "train" else 512 / r["prefill"] + 128 / r["decode"]

    gain = seconds("float32") / seconds("bfloat16")
    chosen = "bfloat16" if gain >= 1.2 else "float32"
    what = "training" if work == "train" else "answering"
    times = f"{gain:.1f} times as fast as" if gain >= 1 else f"{1 / gain:.0f} times slower than"
    return chosen, f"{chosen}: for {what}, bfloat16 is {times} float32 on this machine (measured)"
