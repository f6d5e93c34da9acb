"""The `bible` starter as rows: the King James Bible verse by verse, from the Debian package `bible-kjv-text`.

Its file `bible.data` is the text in windows of 64 KB, each packed by LZW as Unix's `compress` does (T. Welch, "A
Technique for High-Performance Data Compression", IEEE Computer 1984). Its head, with numbers of four bytes, big end first:

    0    "EC02Compressed Data File", filled up with zeros
    84   bytes a window, number of windows n
    92   n + 1 offsets: where each window begins, and the end

It is read here; the package's own program is not needed.
"""

from __future__ import annotations

import re
import struct
from itertools import pairwise
from pathlib import Path

from groundup.checkpoints import debian
from groundup.core.errors import GroundupError
from groundup.data.kinds import Row

HEAD = 84
LINE = re.compile(r"(\d?[A-Za-z]+)(\d+:\d+) (.+)")  # "1Sa17:4 And there went out a champion ..."


def parts(source: Path) -> dict[str, list[Row]]:
    """All verses {"text", "book", "verse"} as the part "train". Books are named as the package does: Ge, Ex ... Rev."""
    files = dict(debian.members(source, "usr/lib/"))
    if "bible.data" not in files:
        raise GroundupError(f"'{source}' holds no bible.data. Fetch the starter 'bible' again.")
    lines = unpacked(files["bible.data"]).decode("ascii").splitlines()
    found = (LINE.fullmatch(line) for line in lines)
    rows = [{"text": verse[3].strip(), "book": verse[1], "verse": verse[2]} for verse in found if verse]
    return {"train": rows}


def unpacked(data: bytes) -> bytes:
    """The text of a `bible.data`. GroundupError where it is none."""
    if not data.startswith(b"EC02") or len(data) < HEAD + 8:
        raise GroundupError("This is no bible.data: its first bytes are not EC02.")
    size, count = struct.unpack_from(">II", data, HEAD)
    if not (0 < size <= 1 << 20 and 0 < count <= 4096 and HEAD + 12 + 4 * count <= len(data)):
        raise GroundupError(f"This is no bible.data: it claims {count} windows of {size} bytes.")
    offsets = struct.unpack_from(f">{count + 1}I", data, HEAD + 8)
    return b"".join(lzw(data[begin:end], size) for begin, end in pairwise(offsets))


def lzw(data: bytes, most: int) -> bytes:
    """At most so many bytes that `compress` packed into `data` (one stretch of it, without its head).

    Codes have 9 bits at first and one more each time that the table has filled what so many can name, up to 16; they
    come eight at a time, so that a group is filled up where they grow. Code 256 ends the stretch.
    """
    table = [bytes((byte,)) for byte in range(256)] + [b""]
    out, before, width, at, group = bytearray(), b"", 9, 0, 0  # `at` and `group` count bits
    while len(out) < most and at + width <= 8 * len(data):
        code = (int.from_bytes(data[at // 8 : at // 8 + 4], "little") >> (at % 8)) & ((1 << width) - 1)
        at += width
        if code == 256:
            break
        if code > len(table) or (code == len(table) and not before):
            raise GroundupError(f"The packed text is damaged: code {code} where {len(table)} are known.")
        entry = table[code] if code < len(table) else before + before[:1]
        out += entry
        if before and len(table) < 1 << 16:
            table.append(before + entry[:1])
            if len(table) == 1 << width and width < 16:
                at = group = group + -(-(at - group) // (8 * width)) * 8 * width
                width += 1
        before = entry
    return bytes(out[:most])
