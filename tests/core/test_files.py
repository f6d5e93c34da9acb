"""Files are whole or not there; JSON is read strictly."""

import hashlib
import json
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundup.core import files
from groundup.core.errors import GroundupError, UsageError
from groundup.core.files import append_line, atomic_folder, atomic_write, cache_dir, read_json, sha256, write_json


def inside(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def left_over(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


# ----------------------------------------------------------------------------------------------------- one file, whole


def test_text_and_bytes_arrive_and_nothing_else_stays(tmp_path: Path) -> None:
    atomic_write(tmp_path / "a" / "b.txt", "zwölf\n")
    atomic_write(str(tmp_path / "a" / "c.bin"), b"\x00\xff")
    assert (tmp_path / "a" / "b.txt").read_bytes() == "zwölf\n".encode()
    assert inside(tmp_path / "a") == ["b.txt", "c.bin"]


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_a_failure_keeps_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    target = tmp_path / "state.json"
    atomic_write(target, "old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, broken, full)
    with pytest.raises(GroundupError, match=r"state\.json: No space left on device"):
        atomic_write(target, "new")
    assert target.read_text() == "old"
    assert left_over(tmp_path) == []


def test_the_content_is_on_the_disk_before_the_name_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, os.replace

    def spy_fsync(handle: int) -> None:
        done.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        fsync(handle)

    def spy_replace(*args: str) -> None:
        done.append("rename")
        replace(*args)

    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(os, "replace", spy_replace)
    atomic_write(tmp_path / "x", "1")
    assert done == ["file", "rename", "folder"]


def test_permissions_are_kept_and_new_files_follow_the_umask(tmp_path: Path) -> None:
    old, new, plain = tmp_path / "old", tmp_path / "new", tmp_path / "plain"
    old.touch()
    old.chmod(0o640)
    plain.touch()
    atomic_write(old, "x")
    atomic_write(new, "x")
    assert old.stat().st_mode & 0o777 == 0o640
    assert new.stat().st_mode == plain.stat().st_mode


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    atomic_write(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


def test_a_very_long_name_works(tmp_path: Path) -> None:
    atomic_write(tmp_path / ("n" * 250), "x")
    atomic_write(tmp_path / ("ü" * 120), "x")
    assert left_over(tmp_path) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(GroundupError, match="file/x: "):
        atomic_write(tmp_path / "file" / "x", "1")


# --------------------------------------------------------------------------------------------------- one folder, whole


def test_a_folder_appears_at_the_end(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "out") as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "x").write_text("1")
        assert not (tmp_path / "out").exists()
    assert (tmp_path / "out" / "sub" / "x").read_text() == "1"
    assert left_over(tmp_path) == []


def test_an_interrupted_folder_never_appears(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), atomic_folder(tmp_path / "out") as folder:
        (folder / "x").touch()
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_an_existing_target_is_refused_unless_asked(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "old").touch()
    with pytest.raises(UsageError, match="never overwritten"), atomic_folder(out):
        pytest.fail("the block must not run")
    with atomic_folder(out, replace=True) as folder:
        (folder / "new").touch()
    assert inside(out) == ["new"]
    assert left_over(tmp_path) == []


def test_a_target_that_comes_in_between_is_kept(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(UsageError), atomic_folder(out) as folder:
        (folder / "mine").touch()
        out.mkdir()
        (out / "theirs").touch()
    assert inside(out) == ["theirs"]


def test_a_failed_replacement_brings_the_old_folder_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "old").touch()
    rename = os.rename

    def fails(source: str, target: str) -> None:
        if str(source).endswith(".tmp"):
            raise OSError(5, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fails)
    with pytest.raises(GroundupError, match="Input/output error"), atomic_folder(out, replace=True) as folder:
        (folder / "new").touch()
    assert inside(out) == ["old"]
    assert left_over(tmp_path) == []


def test_a_file_is_not_replaced_by_a_folder(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(UsageError, match="not a folder"), atomic_folder(tmp_path / "out", replace=True):
        pytest.fail("the block must not run")


# -------------------------------------------------------------------------------------------------------------- a log


def test_lines_are_added(tmp_path: Path) -> None:
    log = tmp_path / "run" / "log.jsonl"
    append_line(log, '{"step": 1}')
    append_line(log, "ü")
    assert log.read_text(encoding="utf-8") == '{"step": 1}\nü\n'
    with pytest.raises(ValueError, match="one line"):
        append_line(log, "a\nb")


def test_a_line_that_a_crash_cut_off_spoils_no_other(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text('{"step": 1}\n{"st')
    append_line(log, '{"step": 2}')
    assert log.read_text().splitlines() == ['{"step": 1}', '{"st', '{"step": 2}']


# --------------------------------------------------------------------------------------------------------------- JSON


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=20,
    )
)
def test_what_json_reads_is_read(value: object) -> None:
    assert files.parse_json(json.dumps(value).encode(), "it") == value


def test_written_and_read(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"b": [1, 2.5, None], "a": "ü"})
    assert read_json(tmp_path / "x.json") == {"b": [1, 2.5, None], "a": "ü"}
    assert list(read_json(tmp_path / "x.json")) == ["b", "a"]
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "x.json", {"loss": float("nan")})
    assert read_json(tmp_path / "x.json")["a"] == "ü"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "'c' stands twice"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": -Infinity}', "-Infinity"),
        (b'{"a":\n 1,}', "line 2"),
        (b"", "line 1, column 1"),
        (b"\xff\xfe", "not UTF-8 text \\(byte 0\\)"),
        (b"[" * 200_000, "nested too deep"),
        (b"9" * 5000, "x.json"),
    ],
)
def test_json_that_lies_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(GroundupError, match=said) as error:
        read_json(tmp_path / "x.json")
    assert "x.json" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_byte_order_mark_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(b"\xef\xbb\xbf[1]")
    assert read_json(tmp_path / "x.json") == [1]


def test_the_size_is_limited(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("[1234]")
    assert read_json(tmp_path / "x.json", limit=6) == [1234]
    with pytest.raises(GroundupError, match="larger than 5 bytes"):
        read_json(tmp_path / "x.json", limit=5)


def test_the_number_of_values_is_limited(tmp_path: Path) -> None:
    assert files.parse_json(b'[1,{"a":2}]', "it", most=3) == [1, {"a": 2}]
    with pytest.raises(GroundupError, match=r"it has 4 commas and brackets.* \(3\)"):
        files.parse_json(b'[1,{"a":[]}]', "it", most=3)


@pytest.mark.timeout(20)
def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    for path in (tmp_path / "pipe.json", tmp_path, Path("/dev/zero")):
        with pytest.raises(GroundupError, match="is not a file"):
            read_json(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(GroundupError, match=r"gone\.json: no such file"):
        read_json(tmp_path / "gone.json")
    with pytest.raises(GroundupError, match=r"gone\.bin: no such file"):
        sha256(tmp_path / "gone.bin")


# ----------------------------------------------------------------------------------------------------- hash and cache


@pytest.mark.parametrize("size", [0, 1, 300_001])
def test_the_hash_is_that_of_the_content(tmp_path: Path, size: int) -> None:
    content = bytes(i % 251 for i in range(size))
    (tmp_path / "x").write_bytes(content)
    assert sha256(tmp_path / "x") == hashlib.sha256(content).hexdigest()


def test_the_cache_is_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GROUNDUP_CACHE", str(tmp_path / "mine"))
    assert cache_dir() == tmp_path / "mine"
    assert cache_dir().is_dir()
    monkeypatch.delenv("GROUNDUP_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir() == tmp_path / ".cache" / "groundup"


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1500, "1.5 kB"), (145_000_000, "145 MB"), (3.8e9, "3.8 GB")],
)
def test_sizes(count: float, text: str) -> None:
    assert files.size(count) == text
