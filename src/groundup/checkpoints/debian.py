"""Debian packages as carriers of data: fetched by apt-get, opened here, and nothing in them is ever installed or run.

A .deb is an `ar` archive that holds, beside two others, data.tar.xz: the files as they would lie below "/".
"""

from __future__ import annotations

import io
import lzma
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

from groundup.core.errors import GroundupError

MAX_BYTES = 64 << 20  # of one file that is taken out


def command(package: str, version: str) -> list[str]:
    """What fetches the package into the working folder; it needs no root and changes nothing else.

    GroundupError where there is no apt-get.
    """
    program = shutil.which("apt-get")
    if program is None:
        raise GroundupError(
            f"{package} comes as a Debian package and this machine has no apt-get. "
            "Fetch it on a Debian machine and copy the cache (GROUNDUP_CACHE), or take other rows."
        )
    return [program, "download", "--quiet", "--quiet", f"{package}={version}"]


def reason(said: str) -> str:
    """Why apt-get brought nothing, in one line, from all that it said."""
    errors = [line.strip().removeprefix("E: ") for line in said.splitlines() if line.strip().startswith("E: ")]
    if any("Unable to locate" in line or "was not found" in line for line in errors):
        return f"{errors[0]}. Let it read its lists (apt-get update); it is a package of Debian 12."
    if any("Could not resolve" in line or "Failed to fetch" in line or "Could not connect" in line for line in errors):
        return "Debian's archive cannot be reached. Look at the network."
    return (errors[0][:200] if errors else "it said nothing") + ". Look at apt's sources (apt-get update)."


def members(package: Path, below: str) -> Iterator[tuple[str, bytes]]:
    """Name and content of each plain file below a folder ("usr/share/games/") of a .deb; links are left out.

    GroundupError where the file is no such package.
    """
    try:
        with tarfile.open(fileobj=io.BytesIO(_data(package.read_bytes())), mode="r|xz") as archive:
            for member in archive:
                name = member.name.removeprefix("./")
                if not member.isfile() or not name.startswith(below):
                    continue
                if member.size > MAX_BYTES or (stream := archive.extractfile(member)) is None:
                    raise ValueError(f"{name} has {member.size:,} bytes")
                yield name.removeprefix(below), stream.read()
    except (tarfile.TarError, lzma.LZMAError, EOFError, ValueError, OSError) as error:
        raise GroundupError(f"'{package.name}' is no readable Debian package ({error}). Fetch it again.") from None


def _data(package: bytes) -> bytes:
    """The member data.tar.xz of the `ar` archive: headers of 60 bytes, contents at even places."""
    if not package.startswith(b"!<arch>\n"):
        raise ValueError("it does not begin as one")
    at = 8
    while at + 60 <= len(package):
        name, size = package[at : at + 16].decode("latin-1").rstrip(" /"), int(package[at + 48 : at + 58])
        if at + 60 + size > len(package):
            raise ValueError(f"{name} is cut off")
        if name == "data.tar.xz":
            return package[at + 60 : at + 60 + size]
        at += 60 + size + size % 2
    raise ValueError("it holds no data.tar.xz")
