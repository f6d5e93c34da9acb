"""What is trained and what is not, counted by hand on a tokenizer of bytes, and on the starter's own template."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from groundup.checkpoints.gguf import open_gguf
from groundup.core.errors import UsageError
from groundup.data.encode import encode, encode_all, prompt_of, reference_of, tools_of
from groundup.data.rows import read
from groundup.inputs.tokenizer import Encoded, Tokenizer

CHAT = {
    "messages": [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "Bye <|im_end|>"},
        {"role": "assistant", "content": "So long"},
    ]
}


def parts(encoded: Encoded, tokenizer: Tokenizer) -> list[tuple[bool, str]]:
    """The runs of equal mask as text."""
    runs: list[tuple[bool, list[int]]] = []
    for token, flag in zip(encoded.ids, encoded.trained, strict=True):
        if not runs or runs[-1][0] != flag:
            runs.append((flag, []))
        runs[-1][1].append(token)
    return [(flag, tokenizer.decode(ids, skip_control=False)) for flag, ids in runs]


def test_a_chat_trains_every_answer_with_its_end_and_nothing_else(chatty: Tokenizer) -> None:
    assert parts(encode(CHAT, chatty), chatty) == [
        (False, "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"),
        (True, "Hello<|im_end|>"),
        (False, "\n<|im_start|>user\nBye <|im_end|><|im_end|>\n<|im_start|>assistant\n"),
        (True, "So long<|im_end|>"),
        (False, "\n"),
    ]
    assert encode(CHAT, chatty).ids.count(chatty.end_of_turn) == 4  # the one inside a message is plain text


def test_the_mask_of_many_turns_is_the_one_written_by_hand(chatty: Tokenizer) -> None:
    turns = [("system", "Be kind."), ("user", "One?"), ("assistant", "1"), ("user", "Two?"), ("assistant", "2, é")]
    encoded = encode(read([{"messages": [{"role": role, "content": text} for role, text in turns]}])[0], chatty)
    control = 1  # <|im_start|> and <|im_end|> are a token each, every other byte is one
    mask = list[int]()
    for role, text in turns:
        head, learned = control + len(f"{role}\n"), int(role == "assistant")
        mask += [0] * head + [learned] * (len(text.encode()) + control) + [0]  # the line break behind is not learned
    assert [int(flag) for flag in encoded.trained] == mask
    assert sum(mask) == (1 + 1) + (5 + 1) and len(encoded.ids) == len(mask)


def test_answers_that_a_prompt_shows_are_given_not_trained(chatty: Tokenizer) -> None:
    row = read([{"prompt": CHAT["messages"][:3], "completion": CHAT["messages"][3:]}])[0]
    encoded = encode(row, chatty)
    assert encoded.ids == encode(CHAT, chatty).ids
    assert [text for flag, text in parts(encoded, chatty) if flag] == ["So long<|im_end|>"]


def test_two_texts_are_a_chat_with_a_template_and_plain_text_without(chatty: Tokenizer, plain: Tokenizer) -> None:
    row = {"prompt": "2+2=", "completion": "4"}
    assert parts(encode(row, chatty), chatty) == [
        (False, "<|im_start|>user\n2+2=<|im_end|>\n<|im_start|>assistant\n"),
        (True, "4<|im_end|>"),
        (False, "\n"),
    ]
    assert parts(encode(row, plain), plain) == [(False, "<s>2+2="), (True, "4</s>")]
    assert prompt_of(row, plain) == "2+2="
    assert prompt_of(row, chatty) == prompt_of(row) == [{"role": "user", "content": "2+2="}]


def test_a_text_is_trained_whole_but_for_its_first_token(chatty: Tokenizer, plain: Tokenizer) -> None:
    assert parts(encode({"text": "abc"}, plain), plain) == [(False, "<s>"), (True, "abc</s>")]
    assert parts(encode({"text": "abc"}, chatty), chatty) == [(False, "a"), (True, "bc<|im_end|>")]


def test_the_prompt_of_a_row_is_how_its_training_begins(chatty: Tokenizer, plain: Tokenizer) -> None:
    """The model is asked in the same tokens in which it was trained."""
    for row in (CHAT, {"prompt": "2+2=", "completion": "4"}):
        prompt = prompt_of(row, chatty)
        assert isinstance(prompt, list)
        ids, encoded = chatty.chat(prompt), encode(row, chatty)
        assert encoded.ids[: len(ids)] == ids
        assert encoded.trained[len(ids) - 1 : len(ids) + 1] == [False, True]
        assert reference_of(row) == ("So long" if row is CHAT else "4")
    asked = plain.encode(str(prompt_of({"prompt": "2+2=", "completion": "4"}, plain)))
    assert encode({"prompt": "2+2=", "completion": "4"}, plain).trained.index(True) == len(asked)


def test_a_row_with_tools_is_asked_as_it_was_trained(tooled: Tokenizer) -> None:
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
    row = read([{**CHAT, "tools": tools}])[0]
    prompt, encoded = prompt_of(row, tooled), encode(row, tooled)
    assert isinstance(prompt, list) and tools_of(row) == tools and tools_of(CHAT) is None
    ids = tooled.chat(prompt, tools=tools_of(row))
    assert "weather" in tooled.decode(ids) and encoded.ids[: len(ids)] == ids
    without = tooled.chat(prompt)
    assert encoded.ids[: len(without)] != without


def test_prompt_and_reference_of_other_rows(chatty: Tokenizer) -> None:
    asking = {"messages": CHAT["messages"][:3]}
    assert prompt_of(asking) == asking["messages"]
    assert prompt_of({"text": "Once"}) == "Once"
    for row in (asking, {"text": "Once"}, {"prompt": "Hi"}):
        with pytest.raises(UsageError, match="nothing to compare with"):
            reference_of(row)
    with pytest.raises(UsageError, match="tool call"):
        reference_of({"messages": [{"role": "assistant", "content": "", "tool_calls": [{}]}]})


def test_rows_that_are_too_long_are_counted_cut_or_left_out(tmp_path: Path, chatty: Tokenizer) -> None:
    path = tmp_path / "train.jsonl"
    rows = [{"prompt": "a", "completion": "b" * length} for length in (1, 30, 2, 40, 50, 60)]
    path.write_text("\n" + "".join(json.dumps(row) + "\n" for row in rows))
    dataset = read(path)
    length = len(encode(dataset[2], chatty).ids)
    with pytest.raises(
        UsageError, match=rf"4 of 6 rows have more than {length} tokens: train.jsonl line 3 \({length + 28}\)"
    ):
        encode_all(dataset, chatty, length)
    skipped = encode_all(dataset, chatty, length, long="skip")
    assert (skipped.source, skipped.skipped, skipped.cut) == ([0, 2], 4, 0)
    assert str(skipped).endswith("4 rows skipped")
    cut = encode_all(dataset, chatty, length, long="truncate")
    assert (len(cut), cut.cut, max(cut.lengths)) == (6, 4, length)
    assert cut.rows[1].ids == encode(dataset[1], chatty).ids[:length]
    assert cut.trained == sum(sum(row.trained) for row in cut.rows)
    with pytest.raises(UsageError, match="All 6 rows of train.jsonl have more than 3 tokens"):
        encode_all(dataset, chatty, 3, long="skip")
    with pytest.raises(UsageError, match="train.jsonl line 2 trains nothing within its first 9 tokens"):
        encode_all(dataset, chatty, 9, long="truncate")


def test_rows_that_cannot_be_trained_are_refused(chatty: Tokenizer, plain: Tokenizer) -> None:
    preference = read([{"prompt": "a", "chosen": "b", "rejected": "c"}])
    with pytest.raises(UsageError, match="rows holds preference rows; this objective learns the next token"):
        encode_all(preference, chatty, 100)
    with pytest.raises(UsageError, match="rows row 1: The model has no chat template"):
        encode_all(read([CHAT]), plain, 1000)


def test_the_starter_s_template_trains_the_answer_and_its_end(starter: Callable[[str], Path]) -> None:
    tokenizer = Tokenizer.from_gguf(open_gguf(starter("smollm2-135m-instruct")).metadata)
    encoded = encode(CHAT, tokenizer)
    trained: list[Any] = [text for flag, text in parts(encoded, tokenizer) if flag]
    assert trained == ["Hello<|im_end|>", "So long<|im_end|>"]
    assert encoded.ids.count(tokenizer.end_of_turn) == 5  # the template puts a system turn in front
