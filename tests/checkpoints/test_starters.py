"""Starters: what is in the table is what comes, checked to the last byte, and nothing is left behind when it is not.

pip reads a folder of wheels here instead of an index; one test fetches the real ones.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from groundup.checkpoints import starters
from groundup.checkpoints.starters import STARTERS, File, Starter, fetch
from groundup.core.errors import GroundupError, UsageError

MEMBERS = {"one.txt": b"first\n" * 999, "below/two.bin": bytes(range(256)) * 7}


def wheel(path: Path, members: dict[str, bytes]) -> Path:
    info = "tiny_starter-0.3.dist-info"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(f"tiny_starter/{name}", data)
        archive.writestr("tiny_starter/__init__.py", "raise SystemExit('code of the wheel was run')")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-starter\nVersion: 0.3\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes for the index, with a starter of two files; the cache is a fresh one."""
    folder = tmp_path / "index"
    folder.mkdir()
    packed = wheel(folder / "tiny_starter-0.3-py3-none-any.whl", MEMBERS)
    for name, value in {"NO_INDEX": "1", "FIND_LINKS": str(folder), "CONFIG_FILE": "/dev/null"}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    monkeypatch.setenv("GROUNDUP_CACHE", str(tmp_path / "cache"))
    files = tuple(File(name, hashlib.sha256(data).hexdigest(), len(data)) for name, data in MEMBERS.items())
    size = packed.stat().st_size
    whole = (File(packed.name, hashlib.sha256(packed.read_bytes()).hexdigest(), size),)
    for name, inside, kept in (
        ("tiny", "tiny_starter/", files),
        ("one", "tiny_starter/", files[:1]),
        ("whole", "", whole),
    ):
        entry = Starter(name, "model", "tiny-starter", "0.3", size, inside, kept, "none", "for tests")
        monkeypatch.setitem(STARTERS, name, entry)
    return folder


@pytest.fixture
def quick(index: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same without pip, which takes a second to start."""

    def download(starter: Starter, folder: Path, progress: object) -> Path:
        return Path(shutil.copy(index / "tiny_starter-0.3-py3-none-any.whl", folder))

    monkeypatch.setattr(starters, "_download", download)
    return index


def left(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "cache" / "starters").iterdir())


def test_the_folder_of_a_starter(index: Path, tmp_path: Path) -> None:
    heard: list[tuple[float, float]] = []
    folder = fetch("tiny", lambda done, total: heard.append((done, total)))
    assert folder == tmp_path / "cache" / "starters" / "tiny"
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == {*MEMBERS, "starter.json"}
    assert all((folder / name).read_bytes() == data for name, data in MEMBERS.items())
    size = STARTERS["tiny"].wheel_size
    assert heard[-1] == (size, size) and all(0 <= done <= total == size for done, total in heard)
    assert left(tmp_path) == ["tiny"]


def test_one_file_and_the_wheel_itself(quick: Path) -> None:
    assert fetch("one").read_bytes() == MEMBERS["one.txt"]
    assert fetch("whole").read_bytes() == (quick / "tiny_starter-0.3-py3-none-any.whl").read_bytes()


def test_the_second_time_pip_is_not_asked(quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = fetch("tiny")
    monkeypatch.setattr(starters, "_download", None)
    assert fetch("tiny") == fetch("tiny", verify=True) == first


def test_what_is_damaged_in_the_cache_is_fetched_again(quick: Path) -> None:
    folder = fetch("tiny")
    path = folder / "below/two.bin"
    path.write_bytes(MEMBERS["below/two.bin"][:-1])
    assert fetch("tiny") == folder and path.read_bytes() == MEMBERS["below/two.bin"]

    path.write_bytes(bytes(len(MEMBERS["below/two.bin"])))  # the right size: seen only when it is read
    assert not any(fetch("tiny").joinpath("below/two.bin").read_bytes())
    assert fetch("tiny", verify=True).joinpath("below/two.bin").read_bytes() == MEMBERS["below/two.bin"]

    for lock in ("", "[" * 100_000, json.dumps({"wheel": "tiny-starter==0.2"})):
        (folder / "starter.json").write_text(lock)
        (folder / "one.txt").write_bytes(b"?" * len(MEMBERS["one.txt"]))
        assert fetch("tiny").joinpath("one.txt").read_bytes() == MEMBERS["one.txt"]


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ({**MEMBERS, "one.txt": b"other\n" * 999}, r"one\.txt of the starter 'tiny' has sha256 [0-9a-f]{12}, not"),
        ({**MEMBERS, "one.txt": bytes(50_000_000)}, "one.txt .* another size"),  # 50 MB out of 50 kB
        ({**MEMBERS, "one.txt": b""}, "one.txt .* another size"),
        ({"one.txt": MEMBERS["one.txt"], "../two.bin": MEMBERS["below/two.bin"]}, "cannot be unpacked.*two.bin"),
    ],
)
def test_another_content_is_not_kept(quick: Path, tmp_path: Path, members: dict[str, bytes], says: str) -> None:
    wheel(quick / "tiny_starter-0.3-py3-none-any.whl", members)
    with pytest.raises(GroundupError, match=says) as error:
        fetch("tiny")
    assert "\n" not in str(error.value)
    assert left(tmp_path) == []


def test_a_failure_keeps_what_was_there(quick: Path, tmp_path: Path) -> None:
    folder = fetch("tiny")
    (folder / "one.txt").write_bytes(b"short")
    wheel(quick / "tiny_starter-0.3-py3-none-any.whl", {})
    with pytest.raises(GroundupError):
        fetch("tiny")
    assert left(tmp_path) == ["tiny"] and (folder / "below/two.bin").exists()


def test_a_broken_wheel_or_none_is_one_line(index: Path, tmp_path: Path) -> None:
    path = index / "tiny_starter-0.3-py3-none-any.whl"
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], None):
        path.write_bytes(content) if content else path.unlink()
        with pytest.raises(GroundupError, match="pip could not fetch tiny-starter==0.3: .*package index") as error:
            fetch("tiny")
        assert "\n" not in str(error.value) and len(str(error.value)) < 500
    assert left(tmp_path) == []


def test_reasons_of_pip() -> None:
    said = "WARNING: Retrying\nERROR: Could not find a version that satisfies x==1\nERROR: No matching distribution"
    assert starters._reason(said).startswith("Could not find a version that satisfies x==1.")
    assert "cannot be reached" in starters._reason(
        "WARNING: Retrying after NewConnectionError('Temporary failure in name resolution')\nERROR: Could not find x"
    )
    assert "ensurepip" in starters._reason("/usr/bin/python: No module named pip\n")
    assert starters._reason("") == "it said nothing. Look at the package index (pip config list)."


def test_a_stopped_download_leaves_no_process_and_no_file(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def slow(command: list[str], **how: object) -> subprocess.Popen[bytes]:
        started.append(popen([sys.executable, "-c", "import time; time.sleep(60)"], **how))  # type: ignore[call-overload]
        return started[-1]

    def stop(done: float, total: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "Popen", slow)
    with pytest.raises(KeyboardInterrupt):
        fetch("tiny", stop)
    assert started[0].poll() is not None
    assert left(tmp_path) == []


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(
        UsageError, match="no starter 'smol'. Choose from smollm2-135m-instruct, all-minilm-l6-v2, news"
    ):
        fetch("smol")


def test_the_table() -> None:
    for name, entry in STARTERS.items():
        assert entry.name == name and entry.kind in ("model", "data") and entry.licence and entry.description
        assert entry.size == sum(file.size for file in entry.files) > 0
        for file in entry.files:
            assert len(file.sha256) == 64 and not Path(file.path).is_absolute() and ".." not in Path(file.path).parts


def test_torch_is_not_needed() -> None:
    code = "import sys, groundup.checkpoints.starters; print('torch' in sys.modules, 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False False\n"


def test_the_real_ones_are_what_the_table_says(starter: Callable[[str], Path]) -> None:
    for name, entry in STARTERS.items():
        if entry.by == "apt":  # tests/data/test_starter_rows.py fetches these where Debian can be asked
            continue
        path = starter(name)
        assert fetch(name, verify=True) == path
        assert path.is_dir() == (len(entry.files) > 1)
