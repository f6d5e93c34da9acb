"""Packed files read as the plain ones do; bombs and broken ones are one clear line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow
import pytest

from groundup.core.errors import UsageError
from groundup.data import packed
from groundup.data.problems import Problem
from groundup.data.rows import Stream, read, scan
from groundup.data.writing import writing

ROWS = [{"prompt": f"Höhe {i}?\n", "completion": f"{i} m"} for i in range(300)]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst", "a.json.gz", "a.JSONL.GZ"])
def test_a_packed_file_reads_as_the_plain_one(tmp_path: Path, name: str) -> None:
    data = json.dumps(ROWS).encode() if "json." in name else LINES
    path = tmp_path / name
    path.write_bytes(pyarrow.compress(data, "zstd", asbytes=True) if name.endswith("zst") else gzip.compress(data))
    found = read(path)
    assert found.rows == ROWS and found.lines[:3] == ([1, 2, 3] if "json." not in name else [1, 1, 1])
    assert str(found).startswith(f"{name}: 300 rows, prompt-completion")


def test_csv_and_text_and_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b'prompt;completion\n"a;\nb";c\nd;e\n'))
    found = read(tmp_path / "a.csv.gz")
    assert found.rows == [{"prompt": "a;\nb", "completion": "c"}, {"prompt": "d", "completion": "e"}]
    assert found.lines == [2, 4]
    (tmp_path / "a.tsv").write_text("prompt\tcompletion\nx, y\tz\n")
    assert read(tmp_path / "a.tsv").rows == [{"prompt": "x, y", "completion": "z"}]
    (tmp_path / "valid.txt.gz").write_bytes(gzip.compress(b"one\n\ntwo\n"))
    found = read(tmp_path, part="validation")
    assert found.rows == [{"text": "one"}, {"text": "two"}] and "(one a paragraph)" in str(found)


def test_two_members_of_one_file_are_both_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"text": "a"}\n') + gzip.compress(b'{"text": "b"}\n'))
    assert [row["text"] for row in read(path).rows] == ["a", "b"]


@pytest.mark.parametrize("pack", [".gz", ".zst"])
def test_a_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pack: str) -> None:
    monkeypatch.setattr(packed, "FREE", 1 << 20)
    data = b'{"text": "' + b"a" * 1000 + b'"}\n'
    bomb = data * 20_000  # 20 MB, 30 kB or less when packed
    path = tmp_path / f"a.jsonl{pack}"
    path.write_bytes(gzip.compress(bomb) if pack == ".gz" else pyarrow.compress(bomb, "zstd", asbytes=True))
    rows, problems = scan(path)
    assert "unpacks to more than" in str(problems[-1]) and len(rows) * len(data) < 6 << 20
    fine = tmp_path / "fine.jsonl.gz"  # the control: as repetitive, but small
    fine.write_bytes(gzip.compress(data * 900))
    assert len(read(fine)) == 900


@pytest.mark.parametrize(
    "data", [b"", b"no gzip", gzip.compress(LINES)[:-20], gzip.compress(LINES)[:500] + b"\0" * 500]
)
def test_a_broken_file_is_one_line(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(data)
    _, problems = scan(path)
    said = str(problems[-1])
    assert "\n" not in said and ("cannot be unpacked" in said or "holds no rows" in said or "not valid JSON" in said)


def test_a_parquet_file_is_not_packed_again(tmp_path: Path) -> None:
    (tmp_path / "a.parquet.gz").write_bytes(b"")
    with pytest.raises(UsageError, match="does not say how to read it"):
        read(tmp_path / "a.parquet.gz")


def test_lines_that_are_not_utf8_are_all_named_and_the_rows_between_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes('prompt,completion\na,b\n"caf\xe9\r\nau lait",c\nd,e\nf,\xe9\n'.encode("latin-1"))
    found, problems = scan(path)
    assert [problem.line for problem in problems] == [3, 6]
    assert "iconv -f latin1" in str(problems[0])
    assert found.rows == [{"prompt": "a", "completion": "b"}, {"prompt": "d", "completion": "e"}]
    assert found.lines == [2, 5]


def test_a_stream_is_read_again_each_time_and_tells_its_kind(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a", "from": "x"}\n{"prompt": "b"}\n{"text": "c"}\n')
    stream = Stream(path)
    for _ in range(2):
        items = list(stream)
        assert [isinstance(item, Problem) for item in items] == [False, True, False]
    assert stream.kind == "text" and list(stream.ignored) == ["from"]
    assert items[0].record == {"text": "a", "from": "x"} and items[0].place == "a.jsonl line 1"  # type: ignore[union-attr]
    with pytest.raises(UsageError, match=r"line 2.*data check"):
        list(stream.good())


def test_writing_is_all_or_nothing_and_never_over_a_file(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "a.jsonl.gz"
    with pytest.raises(KeyError), writing(path) as write:
        write({"text": "a"})
        raise KeyError
    assert not path.exists() and list(path.parent.iterdir()) == []
    with writing(path) as write:
        write({"text": "é"})
    first = path.read_bytes()
    assert gzip.decompress(first).decode() == '{"text": "é"}\n'
    with pytest.raises(UsageError, match="is not overwritten"), writing(path):
        pass
    path.unlink()
    with writing(path) as write:
        write({"text": "é"})
    assert path.read_bytes() == first  # no time of day inside
    with pytest.raises(UsageError, match="cannot be written as JSON"), writing(tmp_path / "b.jsonl") as write:
        write({"text": b"bytes"})
    with pytest.raises(UsageError, match="not as 'a.csv'"), writing(tmp_path / "a.csv"):
        pass
