"""Examples before the question: as asked, never the row itself, and only the last answer is trained."""

from __future__ import annotations

from typing import Any

import pytest

from groundup.core.errors import UsageError
from groundup.data.encode import encode, prompt_of, reference_of
from groundup.data.incontext import shots
from groundup.data.rows import read
from groundup.inputs.tokenizer import Tokenizer

LABELS = ("bad", "fine", "good")
EXAMPLES = [{"prompt": f"Say {i}", "completion": LABELS[i % 3]} for i in range(12)]


def test_as_a_chat() -> None:
    (row,) = shots([{"prompt": "Ask", "completion": "good"}], EXAMPLES, 3, instruction="Judge.")
    roles = [turn["role"] for turn in row["prompt"]]
    assert roles == ["system", *["user", "assistant"] * 3, "user"]
    assert row["prompt"][0]["content"] == "Judge." and row["prompt"][-1]["content"] == "Ask"
    assert {turn["content"] for turn in row["prompt"] if turn["role"] == "assistant"} == set(LABELS)  # one of each
    assert row["completion"] == [{"role": "assistant", "content": "good"}]
    (plain,) = shots([{"prompt": "Ask"}], EXAMPLES, 0)
    assert plain == {"prompt": [{"role": "user", "content": "Ask"}]}


def test_as_a_text() -> None:
    (row,) = shots([{"prompt": "Ask", "completion": "good"}], EXAMPLES[:2], 2, instruction="Judge.", form="text")
    first, *middle, last = row["prompt"].split("\n\n")
    assert (first, last, row["completion"]) == ("Judge.", "Ask\n", "good")
    assert sorted(middle) == ["Say 0\nbad", "Say 1\nfine"]


def test_a_row_is_never_its_own_example() -> None:
    for seed in range(5):
        for own, row in zip(EXAMPLES, shots(EXAMPLES, EXAMPLES, 11, seed=seed), strict=True):
            shown = [turn["content"] for turn in row["prompt"] if turn["role"] == "user"]
            assert shown[-1] == own["prompt"] and own["prompt"] not in shown[:-1] and len(set(shown)) == 12
    with pytest.raises(UsageError, match="12 examples were asked for, 11 ask something else"):
        shots(EXAMPLES[:1], EXAMPLES, 12)


def test_the_draw_depends_on_seed_and_row_alone() -> None:
    rows = [{"prompt": f"Ask {i}", "completion": "good"} for i in range(6)]
    one = shots(rows, EXAMPLES, 4)
    assert shots(rows[::-1], EXAMPLES[::-1], 4)[::-1] == one != shots(rows, EXAMPLES, 4, seed=1)
    assert len({str(row["prompt"][:-1]) for row in one}) > 1


def test_only_the_last_answer_is_trained_and_it_is_what_is_asked(chatty: Tokenizer) -> None:
    (made,) = read(shots([{"prompt": "Ask", "completion": "good"}], EXAMPLES, 2)).rows
    encoded = encode(made, chatty)
    trained = [token for token, flag in zip(encoded.ids, encoded.trained, strict=True) if flag]
    assert chatty.decode(trained, skip_control=False) == "good<|im_end|>"
    assert reference_of(made) == "good" and len(prompt_of(made)) == 5


def test_a_system_message_is_said_once() -> None:
    def chat(system: str) -> dict[str, Any]:
        turns = [("system", system), ("user", f"q {system}"), ("assistant", "a")]
        return {"messages": [{"role": role, "content": text} for role, text in turns]}

    (row,) = shots([chat("own")], [chat("other")], 1)
    assert [turn["role"] for turn in row["prompt"]] == ["system", "user", "assistant", "user"]
    assert row["prompt"][0]["content"] == "own"
    with pytest.raises(UsageError, match="have a system message already"):
        shots([chat("own")], [chat("other")], 1, instruction="Judge.")
