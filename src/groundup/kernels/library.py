"""The compiled library, loaded when it is first asked for, and the path in it that this processor takes.

A path is one instruction set's way (native/paths.h). The best one that the processor has is taken; `GROUNDUP_ISA=avx2` forces a
lower one. The library is built with the package, by any C++17 compiler, and holds all paths of a sort of processor.
"""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from groundup.core.errors import UsageError

FOLDER = Path(__file__).parent
VERSION = 3  # native/library.cpp has the same
FORCED = "GROUNDUP_ISA"


class Op(ctypes.Structure):
    """native/plan.h"""

    _fields_ = [
        *((name, ctypes.c_int32) for name in (
            "code", "barrier", "input", "other", "third", "out", "inputs", "width", "kind", "who",
            "heads", "kv_heads", "head_dim", "pairs", "table", "window",
        )),
        *((name, ctypes.c_float) for name in ("scale", "cap", "eps", "clip")),
        *((name, ctypes.c_void_p) for name in ("p", "q", "r")),
    ]  # fmt: skip


class Call(ctypes.Structure):
    """native/plan.h"""

    _fields_ = [
        ("rows", ctypes.c_int64),
        ("shared", ctypes.c_void_p),
        ("own", ctypes.c_void_p),
        ("own_each", ctypes.c_int64),
        ("positions", ctypes.c_void_p),
        ("past", ctypes.c_void_p),
        ("uses", ctypes.c_void_p),
        ("caches", ctypes.c_void_p),
        ("capacity", ctypes.c_int64),
        ("tables", ctypes.c_void_p),
        ("cache_format", ctypes.c_int32),
        ("threads", ctypes.c_int32),
    ]


@dataclass(frozen=True)
class Library:
    """The library and the number of the path in use."""

    functions: ctypes.CDLL
    paths: tuple[str, ...]
    path: int

    @property
    def name(self) -> str:
        """Of the path in use."""
        return self.paths[self.path]


@cache
def _opened() -> tuple[ctypes.CDLL | None, str]:
    """The library, or why it is not here."""
    files = sorted(p for end in ("so", "pyd", "dylib") for p in FOLDER.glob(f"_native*.{end}"))
    if not files:
        return None, "it was not built: a C++17 compiler was missing when groundup was installed"
    try:
        found = ctypes.CDLL(str(files[0]))
        version = found.groundup_version()
    except (OSError, AttributeError) as e:
        return None, f"it cannot be loaded ({e})"
    if version != VERSION:
        return None, f"it was built from other sources (version {version}, not {VERSION}): install groundup again"
    found.groundup_path.restype = ctypes.c_char_p
    pointer, long = ctypes.c_void_p, ctypes.c_long
    found.groundup_product.argtypes = [
        ctypes.c_int, ctypes.c_int, pointer, pointer, pointer, pointer, long, long, long, ctypes.c_int
    ]  # fmt: skip
    found.groundup_pack.argtypes = [ctypes.c_int, pointer, pointer, pointer, long, long, ctypes.c_int]
    found.groundup_rows.argtypes = [ctypes.c_int, pointer, pointer, long, pointer, long, long]
    found.groundup_pack.restype = found.groundup_rows.restype = None
    found.groundup_step.argtypes = [ctypes.c_int, pointer, long, pointer]
    return found, ""


def _names(functions: ctypes.CDLL) -> list[str]:
    """Of all paths that the library knows, the best last."""
    names: list[str] = []
    while (name := functions.groundup_path(len(names))) is not None:
        names.append(name.decode())
    return names


@cache
def paths() -> tuple[tuple[str, bool], ...]:
    """Every path that was compiled for this sort of processor, and whether this one can run it; the best last."""
    functions, _ = _opened()
    if functions is None:
        return ()
    states = [(name, functions.groundup_usable(i)) for i, name in enumerate(_names(functions))]
    return tuple((name, state == 2) for name, state in states if state)


def library() -> Library | None:
    """The library with the path to take, or None where it is not here. UsageError for a forced path that cannot run."""
    functions, _ = _opened()
    return None if functions is None else _taken(functions, os.environ.get(FORCED, "").strip())


@cache
def _taken(functions: ctypes.CDLL, forced: str) -> Library:
    every = _names(functions)
    usable = [name for name, here in paths() if here]
    if forced and forced not in usable:
        raise UsageError(f"{FORCED}={forced}: this machine runs {', '.join(usable)}; unset it to take the best")
    return Library(functions, tuple(every), every.index(forced or usable[-1]))


def described() -> str:
    """A line for `doctor`."""
    _, why = _opened()
    if why:
        return f"none, {why}; PyTorch does the work"
    found = library()
    assert found is not None
    return f"{found.name} (of {', '.join(name for name, here in paths() if here)})"
