"""Every kind and format gives the same rows; every fault is named with file, line, field and what to do."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from groundup.core.errors import UsageError
from groundup.data import formats
from groundup.data.rows import fingerprint, read, scan, split

CHAT = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Höhe des Mont Blanc?\nIn Metern."},
        {"role": "assistant", "content": '4.806 m, "gemessen"'},
    ]
}
SHAREGPT = {
    "system": "Be brief.",
    "conversations": [
        {"from": "human", "value": "Höhe des Mont Blanc?\nIn Metern."},
        {"from": "gpt", "value": '4.806 m, "gemessen"'},
    ],
}
ALPACA = {
    "system": "Be brief.",
    "instruction": "Höhe des Mont Blanc?\nIn Metern.",
    "input": "",
    "output": '4.806 m, "gemessen"',
}
LISTS = {"prompt": CHAT["messages"][:2], "completion": CHAT["messages"][2:]}
TEXTS = {"prompt": "Höhe des Mont Blanc?", "completion": "4.806 m\n"}


def nested(inner: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    keys = st.sampled_from(["role", "content", "from", "value", "tool_calls", "function", "name", "arguments", "text"])
    words = st.sampled_from(["user", "assistant", "system", "tool", "human", "gpt", "function_call", "{}", "[]"])
    return st.lists(inner | words, max_size=3) | st.dictionaries(keys, inner | words, max_size=4)


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """The rows in the format that the ending says, written by the usual libraries."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=1, ensure_ascii=False), encoding="utf-8")
    elif path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        with path.open("w", newline="", encoding="utf-8-sig") as file:
            table = csv.DictWriter(file, list(rows[0]), delimiter=";")
            table.writeheader()
            table.writerows(
                {key: value if isinstance(value, str) else json.dumps(value) for key, value in row.items()}
                for row in rows
            )
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet", ".csv"])
@pytest.mark.parametrize(
    ("kind", "row", "wanted"),
    [
        ("messages", CHAT, CHAT),
        ("sharegpt", SHAREGPT, CHAT),
        ("alpaca", ALPACA, CHAT),
        ("prompt-completion", LISTS, {**CHAT, "given": 2}),
        ("prompt-completion", TEXTS, TEXTS),
        ("text", {"text": "Eins,\nzwei."}, {"text": "Eins,\nzwei."}),
    ],
    ids=["messages", "sharegpt", "alpaca", "lists", "texts", "text"],
)
def test_every_kind_in_every_format_gives_the_same_rows(
    tmp_path: Path, suffix: str, kind: str, row: dict[str, Any], wanted: dict[str, Any]
) -> None:
    if row is LISTS and suffix == ".csv":
        pytest.skip("a CSV cell that looks like JSON may be a text; messages have their own column")
    dataset = read(write(tmp_path / f"train{suffix}", [row, row, row]))
    assert dataset.rows == [wanted] * 3
    assert dataset.kind == kind
    assert str(dataset) == f"train{suffix}: 3 rows, {kind}"
    assert read([row, row, row]).rows == [wanted] * 3


def test_a_text_file_is_divided_at_blank_lines_and_the_announcement_says_so(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_bytes("\ufeffOne\r\ntwo\r\n\r\n \r\nthree\u2028still three".encode())
    dataset = read(tmp_path / "notes.txt")
    assert dataset.rows == [{"text": "One\ntwo"}, {"text": "three\u2028still three"}]
    assert dataset.lines == [1, 5]
    assert str(dataset) == "notes.txt: 2 rows, text (one a paragraph)"


def test_rows_know_their_lines_in_each_text_format(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('\n{"text": "a"}\n\n{"text": "b\u2028c"}\n')
    assert read(tmp_path / "a.jsonl").lines == [2, 4]
    (tmp_path / "a.json").write_text('[\n {"text":\n "a"},\n {"text": "b"}, {"text": "c"}\n]\n')
    assert read(tmp_path / "a.json").lines == [2, 4, 4]
    (tmp_path / "a.csv").write_text('text,id\n"a\nb",1\nc,2\n')
    dataset = read(tmp_path / "a.csv")
    assert dataset.lines == [2, 4]
    assert str(dataset) == "a.csv: 2 rows, text; not used: id"


def test_json_lines_may_be_called_json(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"text": "a"}\n{"text": "b"}\n')
    assert len(read(tmp_path / "a.json")) == 2


def test_a_folder_has_parts(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", [CHAT, CHAT])
    write(tmp_path / "valid.jsonl", [CHAT])
    assert len(read(tmp_path)) == 2
    assert len(read(tmp_path, part="validation")) == 1
    with pytest.raises(UsageError, match="holds no test.jsonl"):
        read(tmp_path, part="test")
    write(tmp_path / "train.csv", [ALPACA])
    with pytest.raises(UsageError, match="holds 2 files for 'train' .train.jsonl, train.csv.. Name the one"):
        read(tmp_path)


def test_history_input_tools_and_function_calls() -> None:
    alpaca = {"instruction": "Sum", "input": "1 2", "output": "3", "history": [["Hi", "Hello"]]}
    assert [m["content"] for m in read([alpaca])[0]["messages"]] == ["Hi", "Hello", "Sum\n\n1 2", "3"]
    call = {"name": "weather", "arguments": {"city": "Rome"}}
    tools = [{"type": "function", "function": {"name": "weather"}}]
    turns = [
        {"from": "human", "value": "Rome?"},
        {"from": "function_call", "value": json.dumps(call)},
        {"from": "observation", "value": "sunny"},
        {"from": "gpt", "value": "Sunny."},
    ]
    row = read([{"conversations": turns, "tools": json.dumps(tools)}])[0]
    assert row["tools"] == tools
    assert [m["role"] for m in row["messages"]] == ["user", "assistant", "tool", "assistant"]
    assert row["messages"][1]["tool_calls"] == [{"type": "function", "function": call}]
    openai = [*CHAT["messages"][:2], {"role": "assistant", "content": None, "tool_calls": [{"function": dict(call)}]}]
    openai[2]["tool_calls"][0]["function"]["arguments"] = '{"city": "Rome"}'
    assert read([{"messages": openai}])[0]["messages"][2]["tool_calls"] == [{"function": call}]


def test_only_asking_rows_are_taken_where_no_answer_is_needed() -> None:
    asking = [{"messages": CHAT["messages"][:2]}]
    assert read(asking, answers=False).rows == asking
    assert read([{"prompt": "Hi"}], answers=False).rows == [{"prompt": "Hi"}]
    assert read([{"instruction": "Hi"}], answers=False)[0]["messages"][0]["content"] == "Hi"
    with pytest.raises(UsageError, match=r"messages\[1\]: is the last and from user"):
        read(asking)


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, "preference"),
        ({"prompt": "a", "completion": "b", "label": True}, "unpaired preference"),
        ({"prompt": "a", "completions": ["b"], "labels": [True]}, "stepwise"),
        ({"image": "cat.png", "text": "a cat"}, "image"),
        ({"audio": "a.wav", "text": "hello"}, "audio"),
        ({"messages": [], "videos": ["a.mp4"]}, "video"),
    ],
)
def test_other_kinds_are_recognised_and_not_mistaken(row: dict[str, Any], kind: str) -> None:
    assert str(read([row])) == f"rows: 1 row, {kind}"


def chat(*roles: str, **extra: Any) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": "x", **extra} for role in roles]}


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        ({"prompt": "a"}, "completion: is missing. Add it"),
        ({"completion": "a"}, "prompt: is missing"),
        ({"prompt": "a", "completion": " \n"}, "completion: is empty. Write the answer"),
        ({"prompt": "a", "completion": None}, "completion: is missing"),
        ({"prompt": "a", "completion": 5}, "completion: is 5, not a text"),
        ({"prompt": "a", "completion": float("nan")}, "completion: is nan, not a text"),
        ({"prompt": "a", "completion": "\ud83d"}, r"completion: holds half a character .\\ud83d."),
        ({"question": "a", "answer": "b"}, r"of no known kind .its keys: question, answer."),
        ({"text": ["a"]}, r"text: is \['a'\], not a text"),
        ({"messages": []}, "messages: is empty"),
        ({"messages": 1}, "messages: is 1, not a list"),
        ({"messages": "hello"}, "messages: is no JSON list"),
        ({"messages": ["hello"]}, r"messages\[0\]: is 'hello', no message"),
        ({"messages": [{"content": "x"}]}, r"messages\[0\].role: is missing"),
        (chat("user", "bot"), r"messages\[1\].role: is 'bot'. Known roles"),
        (chat("user", "user", "assistant"), r"messages\[1\].role: user follows user"),
        (chat("assistant"), r"messages\[0\].role: assistant follows nothing"),
        (chat("user", "assistant", "system"), r"messages\[2\].role: system follows assistant"),
        (chat("user", "tool"), r"messages\[1\].role: tool follows user"),
        (chat("user", "assistant", weight=0), r"messages\[0\].weight: is not supported"),
        ({"messages": [{"role": "user", "content": "x"}, {"role": "assistant"}]}, r"\[1\].content: is missing"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image"}]}]},
            r"\[0\].content: has parts that are no text",
        ),
        ({**chat("user", "assistant"), "tools": "{"}, "tools: is no JSON list"),
        ({"conversations": [{"from": "bard", "value": "x"}]}, r"conversations\[0\].from: is 'bard'. Known: human"),
        ({"conversations": [{"role": "user"}]}, r"conversations\[0\]: is no turn"),
        ({"system": "s", "conversations": [{"from": "human", "value": 3}]}, r"conversations\[0\].content: is 3"),
        ({"instruction": "a", "output": "b", "history": [["q"]]}, r"history\[0\]: is no pair"),
        ({"prompt": CHAT["messages"][:2], "completion": CHAT["messages"][1:2]}, "user follows user"),
    ],
)
def test_a_bad_row_names_the_line_the_field_and_what_to_do(tmp_path: Path, row: dict[str, Any], wanted: str) -> None:
    with pytest.raises(UsageError, match=wanted) as error:
        read([row])
    assert str(error.value).startswith("rows row 1")
    if "nan" not in wanted:  # in a file NaN is no JSON at all: below
        path = write(tmp_path / "bad.jsonl", [row])
        _, (problem,) = scan(path)
        assert (problem.file, problem.line) == ("bad.jsonl", 1)
        assert problem.message and problem.fix.endswith((".", "?"))
        assert "\n" not in str(problem)


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        (b'{"text": "a",}', "is not valid JSON at column 14"),
        (b'{"text": "a"', "is not valid JSON at column 13"),
        (b'{"text": "a"} {"text": "b"}', "has something behind the row, at column 14"),
        (b'{"text": NaN}', "holds NaN"),
        (b'{"text": "a", "n": 1e999}', "holds the number 1e999"),
        (b'{"text": "a", "n": ' + b"9" * 5000 + b"}", "a number of too many digits"),
        (b'{"text": "a", "text": "b"}', "text: stands twice"),
        (b'{"text": ' + b"[" * 100_000, "nested too deeply"),
        (b'["text"]', "is a list, not an object"),
        (b'"text"', "is a text, not an object"),
        (b'{"text": "caf\xe9"}', "is not UTF-8: byte 14 of the line is 0xE9. Convert it"),
        (b'{"prompt": "a", "completion": "b"}', "is a row of kind prompt-completion, the rows before are text"),
        (b"\0\0\0", "is not valid JSON"),
    ],
)
def test_a_bad_line_is_found_among_good_ones(tmp_path: Path, line: bytes, wanted: str) -> None:
    path = tmp_path / "train.jsonl"
    path.write_bytes(b'{"text": "good"}\r\n\r\n' + line + b'\n{"text": "good too"}\n' + line)
    with pytest.raises(UsageError, match=rf"^train.jsonl line 3.*{wanted}.*1 more: groundup data check"):
        read(path)
    dataset, problems = scan(path)
    assert [problem.line for problem in problems] == [3, 5]
    assert dataset.lines == [1, 4]


@pytest.mark.parametrize(
    ("name", "data", "wanted"),
    [
        ("a.json", b'[{"text": "a"},\n {"text": "b"}\n {"text": "c"}]', "a.json line 3: lacks a ','"),
        ("a.json", b'[{"text": "a"},\n {"text": ', "a.json line 2: is not valid JSON at column 11"),
        ("a.json", b'[{"text": "a"},\n\n 5]', "a.json line 3: is a number"),
        ("a.json", b'[{"text": "a"}]\n]', "behind the list's end"),
        ("a.json", b'[\n{"text": "\xff"}]', "a.json line 2: is not UTF-8: byte 11 of the line is 0xFF"),
        ("a.json", b"[]", "a.json: holds no rows"),
        ("a.jsonl", b"", "a.jsonl: holds no rows"),
        ("a.jsonl", "{}".encode("utf-16"), "is UTF-16"),
        ("a.csv", b"text,id\na\n", "a.csv line 2: has 1 fields where the first line names 2"),
        ("a.csv", b"text,text\na,b\n", "needs one name for each column"),
        ("a.csv", b'text\na\n"b\n', "a.csv line 3: is not valid CSV"),
        ("a.csv", b"text\na\xff\n", "a.csv line 2: is not UTF-8"),
        ("a.csv", b"prompt,completion\na,\n", "a.csv line 2, completion: is missing"),
        ("a.txt", b"caf\xe9", "a.txt line 1: is not UTF-8"),
        ("a.parquet", b"PAR1 and no more", "a.parquet: is not a readable parquet file"),
        ("a.parquet", b"", "a.parquet: is not a readable parquet file"),
        ("a.xlsx", b"PK", "'a.xlsx' does not say how to read it"),
    ],
)
def test_a_bad_file_is_one_clear_line(tmp_path: Path, name: str, data: bytes, wanted: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UsageError) as error:
        read(tmp_path / name)
    assert wanted in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_and_strange_paths(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="There is no data file"):
        read(tmp_path / "no.jsonl")
    with pytest.raises(UsageError, match="neither a file nor a folder"):
        read("/dev/zero")


def test_sizes_are_checked_before_memory_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.jsonl", [{"text": "a" * 1000}, {"text": "b"}])
    monkeypatch.setattr(formats, "MAX_ROW_BYTES", 100)
    assert "line 1: is longer than 100 bytes" in str(scan(path)[1][0])
    monkeypatch.setattr(formats, "MAX_FILE_BYTES", 1000)
    with pytest.raises(UsageError, match="has 1,0.. bytes, more than 1,000"):
        read(path)
    monkeypatch.undo()
    packed = write(tmp_path / "a.parquet", [{"text": "a" * 1_000_000}] * 250)
    assert packed.stat().st_size < 100_000
    assert "row 64: unpacks to more than" in str(scan(packed)[1][0])


@given(st.binary(max_size=200), st.sampled_from([".json", ".jsonl", ".csv", ".txt"]))
@example(b"[", ".json").via("an empty list that never ends")
@example(b"\xef\xbb\xbf", ".json").via("a byte order mark and nothing else")
@example(b"\n", ".csv").via("no names")
def test_any_bytes_give_rows_or_problems_and_nothing_else(data: bytes, suffix: str) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"a{suffix}"
        path.write_bytes(data)
        dataset, problems = scan(path)
        assert dataset.rows or problems
        assert all(str(problem).isprintable() for problem in problems)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), nested, max_leaves=12))
def test_any_values_give_rows_or_problems_and_nothing_else(value: object) -> None:
    keys = ("messages", "conversations", "prompt", "completion", "instruction", "output", "history", "text", "tools")
    for lead in keys:
        dataset, problems = scan([{lead: value, **dict.fromkeys(keys[3:7], value)}], answers=lead != "prompt")
        assert len(dataset) + len(problems) == 1


def test_a_file_cannot_speak_to_the_terminal(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"\x1b[2Jtext\u202e": "a"}, {"text": "a", "\x1b[31m": 1}])
    dataset, (problem,) = scan(path)
    assert str(problem).isprintable() and "\\x1b[2Jtext\\u202e" in str(problem)
    assert str(dataset).isprintable()


def test_split_keeps_equal_rows_together_and_ignores_their_order() -> None:
    rows = [{"text": f"row {i % 37}" if i % 2 else f"ROW\n{i % 37}"} for i in range(148)]
    train, validation = split(read(rows), fraction=0.2, seed=3)
    assert len(train) + len(validation) == 148 and 30 <= len(validation) <= 33
    folded = [{" ".join(row["text"].casefold().split()) for row in part.rows} for part in (train, validation)]
    assert not folded[0] & folded[1]
    assert all(rows[line - 1] == row for line, row in zip(validation.lines, validation.rows, strict=True))
    shuffled = rows[:]
    random.Random(1).shuffle(shuffled)
    again = split(read(shuffled), fraction=0.2, seed=3)[1]
    assert sorted(map(fingerprint, again.rows)) == sorted(map(fingerprint, validation.rows))
    other = split(read(rows), fraction=0.2, seed=4)[1]
    assert sorted(map(fingerprint, other.rows)) != sorted(map(fingerprint, validation.rows))


def test_split_refuses_what_leaves_one_side_empty() -> None:
    dataset = read([{"text": "same"}] * 5)
    for size in ({"count": 2}, {"fraction": 0.5}):
        with pytest.raises(UsageError, match="5 rows, 1 of them distinct"):
            split(dataset, **size)
    with pytest.raises(UsageError, match="either as a fraction or as a count"):
        split(dataset)
    with pytest.raises(UsageError, match="lies between 0 and 1"):
        split(dataset, fraction=1.0)


def test_a_speaker_that_is_no_text_is_named() -> None:
    _, problems = scan([{"conversations": [{"from": [], "value": "x"}]}])
    assert [p.field for p in problems] == ["conversations[0].from"]
