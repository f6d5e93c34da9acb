"""Packed files (.gz, .zst) as bytes that are unpacked while they are read, and never to more than a file of rows is."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from groundup.data.problems import BadRow

PACKED = (".gz", ".zst")
TROUBLE = (OSError, EOFError, zlib.error, ValueError)  # what the unpackers raise for a file that is damaged or cut off
MAX_BYTES = 64 << 30
RATIO = 100  # text packs to a third or a tenth; a file that unpacks to more than this is a bomb, not rows
FREE = 64 << 20  # ... but a small one may


def ending(path: Path) -> str:
    """What the name says that the file holds, whether packed or not: ".csv" for "rows.csv" and "rows.csv.gz"."""
    return (path.with_suffix("") if path.suffix.lower() in PACKED else path).suffix.lower()


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The bytes that the file holds. Reading raises `BadRow` where it unpacks to too much, and `TROUBLE`."""
    pack = path.suffix.lower()
    with path.open("rb") as file:
        if pack not in PACKED:
            yield file
            return
        most = min(MAX_BYTES, RATIO * path.stat().st_size + FREE)
        with _unpacker(file, pack) as source:
            yield cast(BinaryIO, io.BufferedReader(_Limited(source, most), 1 << 16))


def _unpacker(file: BinaryIO, pack: str) -> Any:
    if pack == ".gz":
        return gzip.GzipFile(fileobj=file, mode="rb")
    from pyarrow import CompressedInputStream  # Python has no zstd of its own before 3.14

    return CompressedInputStream(file, "zstd")


class _Limited(io.RawIOBase):
    def __init__(self, source: Any, most: int) -> None:
        self.source, self.most, self.count = source, most, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self.source.read(len(buffer))
        self.count += len(data)
        if self.count > self.most:
            raise BadRow("", f"unpacks to more than {self.most:,} bytes", "Split the file.")
        buffer[: len(data)] = data
        return len(data)
