"""Files that are whole or not there: written beside their place, flushed to the disk, then moved into it.

A reader, or a run that starts again after a crash, finds the old content or the new, never a piece of either. What
was moved into place is also flushed by way of its folder: on Linux a rename is kept only when the folder is.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from groundup.core.errors import GroundupError, UsageError

JSON_LIMIT = 100 << 20
"""Largest JSON file that is read, in bytes; a tokenizer.json of 256,000 words takes about 35 MB."""

JSON_MARKS = 4_000_000
"""Most commas and brackets in one; that tokenizer.json has 2 million. Each can cost 60 bytes of memory when parsed."""


def atomic_write(path: str | Path, data: bytes | str) -> None:
    """Put `data` (text as UTF-8) into the file `path`, all of it or nothing; missing folders are made.

    A file that was there is replaced and keeps its permissions; a symlink is followed, so that it stays one.
    Raises GroundupError when the disk is full or the place cannot be written.
    """
    target = Path(os.path.realpath(path))
    content = data.encode("utf-8") if isinstance(data, str) else data
    with explained(path), replacing(target) as temporary:
        temporary.write_bytes(content)


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Give an empty temporary file beside `target`; when the block ends well it is flushed and takes that place."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = _sibling(target, "tmp")
    temporary.touch(exist_ok=False)
    try:
        if target.is_file():
            temporary.chmod(target.stat().st_mode & 0o7777)
        yield temporary
        _flush(temporary)
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _flush(target.parent)


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Give an empty temporary file beside `path`; when the block ends well it takes that place, flushed to the disk.

    Raises UsageError for a `path` that is there already.
    """
    target = Path(path).absolute()
    _refuse_existing(target)
    with explained(path), replacing(target) as temporary:
        yield temporary
        _refuse_existing(target)  # it may have come while the block ran


@contextmanager
def atomic_folder(path: str | Path, *, replace: bool = False) -> Iterator[Path]:
    """Give an empty temporary folder beside `path`; when the block ends well it takes that place, flushed to the disk.

    With `replace` an older folder is moved aside first and removed last: a crash in between leaves both, under names
    that start with a dot. Raises UsageError for a `path` that is there already and may not be replaced.
    """
    target = Path(path).absolute()
    if not replace:
        _refuse_existing(target)
    elif target.is_symlink() or (target.exists() and not target.is_dir()):
        raise UsageError(f"{path} is not a folder, so it is not replaced by one; give another path")
    with explained(path):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = _sibling(target, "tmp")
        temporary.mkdir()
    try:
        yield temporary
        with explained(path):
            for folder, _, names in os.walk(temporary):
                for name in names:
                    _flush(Path(folder) / name)
                _flush(Path(folder))
            _move_into_place(temporary, target, replace)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _move_into_place(temporary: Path, target: Path, replace: bool) -> None:
    old = None
    if target.exists():
        if not replace:
            _refuse_existing(target)  # it came while the block ran
        old = _sibling(target, "old")
        target.rename(old)
    try:
        temporary.rename(target)
    except BaseException:
        if old is not None:
            old.rename(target)
        raise
    _flush(target.parent)
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)


def _refuse_existing(target: Path) -> None:
    if target.is_symlink() or target.exists():
        raise UsageError(f"{target} exists already and is never overwritten unasked; give another path or remove it")


def append_line(path: str | Path, text: str) -> None:
    """Add one line to a log: a single write at the end of the file, so that lines of two writers never mix.

    A line break inside `text` is refused (ValueError): one call, one line. A last line that a crash cut off is ended
    first, so that it spoils no other.
    """
    if "\n" in text or "\r" in text:
        raise ValueError("append_line takes one line without a line break")
    place = Path(path)
    with explained(path):
        place.parent.mkdir(parents=True, exist_ok=True)
        with place.open("a+b", buffering=0) as file:
            end = file.seek(0, os.SEEK_END)
            torn = False
            if end:
                file.seek(end - 1)
                torn = file.read(1) != b"\n"
            file.write((b"\n" if torn else b"") + text.encode("utf-8") + b"\n")


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file's content, 64 hexadecimal digits; read in pieces, so that size costs no memory."""
    with explained(path), Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: str | Path, limit: int = JSON_LIMIT) -> Any:
    """Read a JSON file of at most `limit` bytes.

    Raises GroundupError with the file and the place for: no such file, too large, too many values, not UTF-8, not JSON,
    nested too deep, a key twice in one object (readers disagree on which one counts), NaN or Infinity (not JSON).
    """
    with explained(path):
        place = Path(path)
        if place.exists() and not place.is_file():  # opening a pipe would wait for its other end
            raise GroundupError(f"{path} is not a file")
        with place.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > limit:
                raise GroundupError(f"{path} is larger than {limit:,} bytes, more than such a JSON file ever needs")
            content = file.read(size)
    return parse_json(content, str(path))


def parse_json(content: bytes, where: str, most: int = JSON_MARKS) -> Any:
    """Read JSON text (UTF-8) with at most `most` commas and brackets, as strictly as `read_json`; `where` names it."""
    # every value costs one of these, so this bounds what parsing takes: 90 MB of "[],[]," would become 2 GB
    marks = sum(content.count(mark) for mark in (b",", b"[", b"{"))
    if marks > most:
        raise GroundupError(f"{where} has {marks:,} commas and brackets, more than such a file ever needs ({most:,})")
    try:
        return json.loads(content.decode("utf-8-sig"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise GroundupError(f"{where} is not UTF-8 text (byte {error.start}), so it is not JSON") from error
    except json.JSONDecodeError as error:
        raise GroundupError(f"{where} is not JSON: {error.msg} (line {error.lineno}, column {error.colno})") from error
    except ValueError as error:  # from the two hooks, and integers of more than 4,300 digits
        raise GroundupError(f"{where}: {error}") from error
    except RecursionError as error:
        raise GroundupError(f"{where} is nested too deep to be what it should be") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"the key {key[:100]!r} stands twice in one object; remove one")
            seen.add(key)
    return result


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number that JSON knows")


def write_json(path: str | Path, obj: Any) -> None:
    """Write `obj` as indented JSON, atomically. NaN and infinity are refused (ValueError): other readers cannot."""
    atomic_write(path, json.dumps(obj, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def cache_dir() -> Path:
    """Where downloads and measurements are kept: $GROUNDUP_CACHE, or ~/.cache/groundup. Made when missing."""
    folder = Path(os.environ.get("GROUNDUP_CACHE") or Path.home() / ".cache" / "groundup").expanduser().absolute()
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def size(count: float) -> str:
    """Bytes as people say them: 145 MB."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "bytes" or count >= 10 else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError


def bytes_of(said: str) -> int:
    """The inverse of `size`: "8GB" is 8e9, "8GiB" 8 · 2^30. UsageError for what is no size."""
    units = {"": 1, "b": 1, "bytes": 1}
    units |= {f"{letter}{end}": 1000**power for power, letter in enumerate("kmgt", 1) for end in ("", "b")}
    units |= {f"{letter}ib": 1024**power for power, letter in enumerate("kmgt", 1)}
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([a-z]*)", said.strip().lower().replace(" ", ""))
    if found is None or found[2] not in units:
        raise UsageError(f"{said!r} is no size; write it as 8GB, 800MB or 8GiB")
    return int(float(found[1]) * units[found[2]])


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:
        if not path.is_dir():  # some network file systems cannot flush a folder
            raise
    finally:
        os.close(handle)


def _sibling(target: Path, end: str) -> Path:
    """A hidden path beside `target` that no other writer uses (cut: file systems take names of 255 bytes)."""
    return target.with_name(f".{target.name[:50]}.{secrets.token_hex(6)}.{end}")


@contextmanager
def explained(path: str | Path) -> Iterator[None]:
    """Turn the system's errors into one line that names the file."""
    try:
        yield
    except FileNotFoundError as error:
        raise GroundupError(f"{path}: no such file or folder") from error
    except OSError as error:
        raise GroundupError(f"{path}: {error.strerror or error}") from error
