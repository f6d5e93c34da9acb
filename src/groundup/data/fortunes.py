"""The `fortunes` starter as rows: sayings and jokes, each with its topic, from the Debian package of that name.

The package keeps what is meant to offend in another one, which is not fetched; two files of this one make fun of
peoples and of the sexes, and are left out as well. 38 topics remain.
"""

from __future__ import annotations

import re
from pathlib import Path

from groundup.checkpoints import debian
from groundup.core.errors import GroundupError
from groundup.data.kinds import Row

FOLDER = "usr/share/games/fortunes/"
RUDE = ("ethnic", "men-women")


def parts(source: Path) -> dict[str, list[Row]]:
    """All rows {"text", "topic"} as the part "train": topics by the alphabet, sayings in the order of their file."""
    files = {name: data for name, data in debian.members(source, FOLDER) if "." not in name and name not in RUDE}
    if not files:
        raise GroundupError(f"'{source}' holds no fortunes. Fetch the starter 'fortunes' again.")
    rows = [{"text": text, "topic": topic} for topic in sorted(files) for text in sayings(files[topic].decode())]
    return {"train": rows}


def sayings(text: str) -> list[str]:
    """The sayings of a file: lines that hold a lone % divide them; what was struck over is taken back."""
    while "\x08" in text:  # letter by letter: some are struck over several at a time
        text = re.sub(r"(?:[^\n\x08]|(?<![^\n]))\x08", "", text)
    found = re.split(r"(?m)^%[ \t]*$\n?", text)
    return [saying.strip("\n").rstrip() for saying in found if saying.strip()]
