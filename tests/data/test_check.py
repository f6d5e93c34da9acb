"""The report on a file finds everything at once, and the mask is shown as it will be trained."""

from __future__ import annotations

import json
from pathlib import Path

from groundup.data.check import Segment, check, render_mask, show_mask
from groundup.data.encode import encode
from groundup.inputs.tokenizer import Tokenizer


def test_a_good_file(tmp_path: Path, chatty: Tokenizer) -> None:
    path = tmp_path / "train.jsonl"
    rows = [{"prompt": "a", "completion": "b" * n} for n in (1, 2, 6)] + [{"prompt": "c", "completion": "b"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = check(path, chatty, max_tokens=1000)
    lengths = [len(encode(row, chatty).ids) for row in rows]
    assert report.ok and report.tokens
    assert (report.tokens.shortest, report.tokens.longest) == (min(lengths), max(lengths))
    assert report.tokens.median == sorted(lengths)[1] / 2 + sorted(lengths)[2] / 2
    assert (report.tokens.total, report.tokens.trained) == (sum(lengths), 1 + 2 + 6 + 1 + 4)
    assert report.duplicates == []
    assert report.text().splitlines()[0] == "train.jsonl: 4 rows, prompt-completion"
    assert report.text().endswith("no problems found")
    assert json.loads(json.dumps(report.to_dict()))["trained_share"] == 14 / sum(lengths)


def test_all_problems_at_once(tmp_path: Path, chatty: Tokenizer) -> None:
    path = tmp_path / "train.jsonl"
    path.write_bytes(
        b'{"prompt": "a", "completion": "b"}\n'
        b'{"prompt": "a", "completion": ""}\n'
        b'{"prompt": "a"}\n'
        b"{nonsense}\n"
        b'{"text": "\xff"}\n'
        b'{"prompt": " a", "completion": "B"}\n'
        b'{"prompt": "c", "completion": "' + b"d" * 100 + b'"}\n'
    )
    report = check(path, chatty, max_tokens=90)
    assert [(problem.line, problem.field) for problem in report.problems] == [
        (2, "completion"),
        (3, "completion"),
        (4, ""),
        (5, ""),
    ]
    assert report.duplicates == [["train.jsonl line 1", "train.jsonl line 6"]]
    assert report.too_long[0].startswith("train.jsonl line 7 (1")
    assert report.rows == 3 and not report.ok
    text = report.text(most=2)
    assert "1 rows repeat another one" in text and "... and 2 problems more" in text
    assert "no problems found" not in text


def test_rows_that_cannot_be_trained_are_said_to_be_so(chatty: Tokenizer) -> None:
    report = check([{"chosen": "a", "rejected": "b"}], chatty)
    assert not report.ok and "preference rows cannot be trained by next token" in report.text()


def test_a_row_that_the_template_refuses_is_a_problem(plain: Tokenizer) -> None:
    row = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    report = check([row], plain)
    assert "no chat template" in str(report.problems[0])


def test_the_mask_is_shown_token_by_token_and_safe_to_print(chatty: Tokenizer) -> None:
    row = {"prompt": "é\n", "completion": "a€\x1b[31m\u202e"}
    segments = show_mask(row, chatty)
    assert Segment("é", False, 2) in segments and Segment("€", True, 3) in segments
    assert Segment("\\n", False, 1) in segments and Segment("<|im_end|>", True, 1) in segments
    assert Segment("\\x1b", True, 1) in segments and Segment("\\u202e", True, 3) in segments
    encoded = encode(row, chatty)
    assert sum(segment.tokens for segment in segments) == len(encoded.ids)
    assert sum(segment.tokens for segment in segments if segment.trained) == sum(encoded.trained)
    assert "".join(segment.text for segment in segments if segment.trained) == "a€\\x1b[31m\\u202e<|im_end|>"
    assert all(segment.text.isprintable() for segment in segments)


def test_half_characters_do_not_cross_the_mask(plain: Tokenizer) -> None:
    segments = show_mask({"text": "é"}, plain)  # <s> is not trained, both bytes of the letter are
    assert segments[:2] == [Segment("<s>", False, 1), Segment("é", True, 2)]


def test_the_mask_for_a_plain_terminal(chatty: Tokenizer) -> None:
    segments = show_mask({"prompt": "Hi", "completion": "Hello\nyou"}, chatty)
    assert render_mask(segments) == (
        "           <|im_start|>user\\n\n"
        "           Hi<|im_end|>\\n\n"
        "           <|im_start|>assistant\\n\n"
        "[trained]  Hello\\n\n"
        "[trained]  you<|im_end|>\n"
        "           \\n\n"
        f"10 of {sum(s.tokens for s in segments)} tokens trained"
    )
    assert len(render_mask(segments, tokens=True).splitlines()) == len(segments) + 1
