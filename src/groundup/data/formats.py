"""Files to records: json, jsonl, csv, tsv, parquet and txt, read record by record, each with the line where it begins.

What cannot be read comes out as a `Problem` in its place, so that one pass can find them all. Sizes are checked
before memory is taken. Files of text may be packed (.gz, .zst): they are unpacked as they are read. Text is UTF-8,
with or without a byte order mark. Lines end in "\\n" or "\\r\\n", never at U+2028, which is an ordinary character
inside JSON.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, NoReturn

from groundup.core.errors import UsageError
from groundup.data.packed import PACKED, TROUBLE, ending, opened
from groundup.data.problems import BadRow, Problem

Record = dict[str, Any]
Found = tuple[int, Record] | Problem

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".txt")
PARTS = {"train": ("train",), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}
MAX_FILE_BYTES = 2 << 30
MAX_ROW_BYTES = 64 << 20
PARQUET_ROWS = 64  # read at a time
PARQUET_RATIO = 1000  # a file that unpacks to more than this is a bomb, not rows


def find(path: Path, part: str = "train") -> Path:
    """The data file that `path` means: itself, or in a folder `train.jsonl` (.json, ...; valid, val, dev, test)."""
    if path.is_dir():
        if part not in PARTS:
            raise UsageError(f"There is no part '{part}' of a data folder. Known parts: {', '.join(PARTS)}.")
        endings = (*SUFFIXES, *(suffix + pack for suffix in SUFFIXES if suffix != ".parquet" for pack in PACKED))
        files = (path / (stem + suffix) for stem in PARTS[part] for suffix in endings)
        found = [file for file in files if file.is_file()]
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(file.name for file in found)
            raise UsageError(f"{path} holds {len(found)} files for '{part}' ({names}). Name the one you mean.")
        raise UsageError(f"{path} holds no {PARTS[part][0]}.jsonl (or {', '.join(SUFFIXES[1:])}). Name a file instead.")
    if not path.exists():
        raise UsageError(f"There is no data file '{path}'. Name a {', '.join(SUFFIXES)} file or a folder of these.")
    if not path.is_file():
        raise UsageError(f"'{path}' is neither a file nor a folder. Write the rows into a file first.")
    return path


def records(path: Path) -> Iterator[Found]:
    """Each record of the file as (line, record), or the `Problem` that stands in its place."""
    suffix = ending(path)
    if suffix not in SUFFIXES or (suffix == ".parquet") != (path.suffix.lower() == ".parquet"):
        known = f"{', '.join(SUFFIXES)}; {' and '.join(PACKED)} may follow those of text"
        raise UsageError(f"'{path.name}' does not say how to read it. Known endings: {known}.")
    if (size := path.stat().st_size) > MAX_FILE_BYTES:
        raise UsageError(f"'{path.name}' has {size:,} bytes, more than {MAX_FILE_BYTES:,}. Split it into several.")
    if suffix == ".parquet":
        yield from _parquet(path)
        return
    try:
        yield from _text_file(path, suffix)
    except BadRow as bad:
        yield bad.at(path.name, 0)
    except TROUBLE as error:
        if path.suffix.lower() not in PACKED:
            raise
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        yield Problem(path.name, 0, "", f"cannot be unpacked ({reason})", "Is it complete? Pack it again.")


def unit(path: Path) -> str:
    """What a record's number counts: lines of a text file, rows of a parquet file."""
    return "row" if path.suffix.lower() == ".parquet" else "line"


def _text_file(path: Path, suffix: str) -> Iterator[Found]:
    with opened(path) as file:
        start = file.read(4096)
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        yield Problem(path.name, 1, "", "is UTF-16 text", "Save it as UTF-8.")
    elif suffix in (".csv", ".tsv"):
        yield from _csv(path)
    elif suffix == ".txt":
        yield from _txt(path)
    elif start.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
        yield from _json_list(path)
    else:
        yield from _json_lines(path)


# --- JSON -----------------------------------------------------------------------------------------------------------


def _unique(pairs: list[tuple[str, Any]]) -> Record:
    record = dict(pairs)
    if len(record) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise BadRow(twice, "stands twice in one object", "Keep one of them.")
    return record


def _refuse_constant(name: str) -> NoReturn:
    raise BadRow("", f"holds {name}, which is no JSON value", "Write a number, a text or null.")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise BadRow("", f"holds the number {text[:20]}, which is too large", "Write it as a text.")
    return value


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse_constant, parse_float=_finite)


def parse(text: str, start: int = 0) -> tuple[Any, int]:
    """The JSON value that begins at `start`, and where it ends. Raises `BadRow`."""
    try:
        return _DECODER.raw_decode(text, start)
    except json.JSONDecodeError as error:
        column = error.pos - text.rfind("\n", 0, error.pos)
        wrong = error.msg[:1].lower() + error.msg[1:]
        raise BadRow("", f"is not valid JSON at column {column}: {wrong}", "Repair the line.") from None
    except RecursionError:
        raise BadRow("", "is nested too deeply", "A row is an object of texts and lists.") from None
    except ValueError:
        raise BadRow("", "holds a number of too many digits", "Write it as a text.") from None


def _json_lines(path: Path) -> Iterator[Found]:
    for line, text, problem in _lines(path):
        if problem:
            yield problem
            continue
        text = text.strip()
        if not text:
            continue
        try:
            value, end = parse(text)
            if text[end:].strip():
                raise BadRow("", f"has something behind the row, at column {end + 1}", "Write one row a line.")
            yield line, _record(value)
        except BadRow as bad:
            yield bad.at(path.name, line)


def _json_list(path: Path) -> Iterator[Found]:
    with opened(path) as file:
        data = file.read(MAX_FILE_BYTES + 1).removeprefix(b"\xef\xbb\xbf")
    if len(data) > MAX_FILE_BYTES:
        raise BadRow("", f"holds a list of more than {MAX_FILE_BYTES:,} bytes", "Write one row a line.")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        yield _not_utf8(path, data.count(b"\n", 0, error.start) + 1, error)
        return
    line, at = 1, 0
    end = text.index("[") + 1
    while True:  # one element a turn: `end` stands behind the last one
        begin = _skip(text, end)
        line, at = line + text.count("\n", at, begin), begin
        if text[begin : begin + 1] == "]":
            if text[begin + 1 :].strip():
                yield Problem(path.name, line, "", "has something behind the list's end", "Remove it.")
            return
        try:
            value, end = parse(text, begin)
        except BadRow as bad:
            yield bad.at(path.name, line)
            return
        try:
            yield line, _record(value)
        except BadRow as bad:
            yield bad.at(path.name, line)
        end = _skip(text, end)
        if text[end : end + 1] == ",":
            end += 1
        elif text[end : end + 1] != "]":
            line += text.count("\n", at, end)
            yield Problem(path.name, line, "", "lacks a ',' or ']' behind a row", "Is the file cut off? Repair it.")
            return


def _skip(text: str, start: int) -> int:
    while text[start : start + 1] in (" ", "\n", "\r", "\t"):
        start += 1
    return start


def _record(value: object) -> Record:
    if not isinstance(value, dict):
        kind = {list: "a list", str: "a text", bool: "true or false", type(None): "null"}.get(type(value), "a number")
        raise BadRow("", f"is {kind}, not an object", 'Write a row as {"field": ...}.')
    return value


# --- text, csv ------------------------------------------------------------------------------------------------------


def _lines(path: Path) -> Iterator[tuple[int, str, Problem | None]]:
    """(number, text, None) for each line; what is not UTF-8 comes with its problem, and as Latin-1."""
    with opened(path) as file:
        line = 0
        while data := file.readline(MAX_ROW_BYTES + 1):
            line += 1
            if len(data) > MAX_ROW_BYTES:
                message = f"is longer than {MAX_ROW_BYTES:,} bytes"
                yield line, "", Problem(path.name, line, "", message, "Split the row.")
                return
            if line == 1:
                data = data.removeprefix(b"\xef\xbb\xbf")
            try:
                yield line, data.decode(), None
            except UnicodeDecodeError as error:
                yield line, data.decode("latin-1"), _not_utf8(path, line, error)


def _not_utf8(path: Path, line: int, error: UnicodeDecodeError) -> Problem:
    at = error.start - error.object.rfind(b"\n", 0, error.start)
    byte = error.object[error.start]
    message = f"is not UTF-8: byte {at} of the line is 0x{byte:02X}"
    return Problem(path.name, line, "", message, f"Convert it, for example: iconv -f latin1 -t utf-8 {path.name}")


def _txt(path: Path) -> Iterator[Found]:
    """A row a paragraph: blank lines divide."""
    begin, paragraph = 0, list[str]()
    for line, text, problem in _lines(path):
        if problem:
            yield problem
        elif text.strip():
            begin = begin if paragraph else line
            paragraph.append(text.rstrip("\r\n"))
        elif paragraph:
            yield begin, {"text": "\n".join(paragraph)}
            paragraph = []
    if paragraph:
        yield begin, {"text": "\n".join(paragraph)}


def _csv(path: Path) -> Iterator[Found]:
    """The first line names the fields; of comma, semicolon and tab the one that it holds most divides them.

    A row with a line that is not UTF-8 comes as its problem; where the row ends is seen all the same.
    """
    bad = list[Problem]()  # in the row that is being read

    def lines() -> Iterator[str]:
        for _, text, problem in _lines(path):
            if problem:
                bad.append(problem)
            yield text

    source = lines()
    first = next(source, "")
    with _long_fields():
        table = csv.reader(chain((first,), source), strict=True, delimiter=max(",;\t", key=first.count))
        begin = 1
        try:
            names = next(table, [])
            if bad:
                yield bad[0]
                return
            if len(set(names)) < len(names) or not all(names):
                yield Problem(path.name, 1, "", "needs one name for each column", "Name each column once.")
                return
            begin = table.line_num + 1
            for cells in table:
                if bad:
                    yield bad[0]
                    bad.clear()
                elif cells and len(cells) != len(names):
                    message = f"has {len(cells)} fields where the first line names {len(names)}"
                    yield Problem(path.name, begin, "", message, 'Put a text that holds the divider in "quotes".')
                elif cells:
                    yield begin, {name: cell for name, cell in zip(names, cells, strict=True) if cell.strip()}
                begin = table.line_num + 1
        except csv.Error as error:
            wrong = Problem(path.name, begin, "", f"is not valid CSV: {error}", 'Is a closing " missing?')
            yield bad[0] if bad else wrong


@contextmanager
def _long_fields() -> Iterator[None]:
    before = csv.field_size_limit(MAX_ROW_BYTES)
    try:
        yield
    finally:
        csv.field_size_limit(before)


# --- parquet --------------------------------------------------------------------------------------------------------


def _parquet(path: Path) -> Iterator[Found]:
    import pyarrow.parquet  # 50 ms and 100 MB that other formats do not need
    from pyarrow import ArrowException

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            # what it holds is counted as it unpacks: a repeated text is stored once, whatever its header says
            most = min(MAX_FILE_BYTES, PARQUET_RATIO * path.stat().st_size + (64 << 20))
            row, size = 0, 0
            for batch in file.iter_batches(batch_size=PARQUET_ROWS):
                size += batch.nbytes
                if size > most:
                    yield Problem(path.name, row, "", f"unpacks to more than {most:,} bytes", "Split the file.", "row")
                    return
                for record in batch.to_pylist():
                    row += 1
                    yield row, record
    except (ArrowException, OSError, ValueError) as error:
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        yield Problem(path.name, 0, "", f"is not a readable parquet file ({reason})", "Write it again.", "row")
