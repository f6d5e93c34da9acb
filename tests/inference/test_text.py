"""Texts: streams, stop texts and JSON of a schema, with a real vocabulary and scores that are made up."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from groundup.core.errors import UsageError
from groundup.inference.decode import answer, stream
from groundup.inference.reader import Reader
from groundup.inference.sampling import Sampling
from groundup.inference.schema import schema_filters
from groundup.nn.stack import Decoder

TEXT = "Grüße an 東京 👍🏽 and a naïve café, END of it"


class Says(Decoder):
    """A network that says what it is told to: its scores depend on how many tokens a row has, and on nothing else."""

    def __init__(self, ids: list[int], prompt: int, size: int):
        nn.Module.__init__(self)
        self.ids, self.prompt, self.size, self.unused = ids, prompt, size, nn.Parameter(torch.zeros(1))

    def forward(self, ids, step, at=None):
        ends = [p + n for p, n in zip(step.past, step.rows.lengths, strict=True)]
        scores = torch.zeros(len(ends), self.size)
        for row, end in zip(scores, ends, strict=True):
            row[self.ids[min(end - self.prompt, len(self.ids) - 1)]] = 9.0
        return scores


def says(words, text: str) -> Says:
    return Says([*words.encode(text), 2], 3, words.vocab_size)


def test_a_stream_is_the_text_and_never_half_a_character(words):
    pieces = list(
        stream(says(words, TEXT), [7, 8, 9], sampling=Sampling(99, 0), tokenizer=words, stop_ids=frozenset({2}))
    )
    assert "".join(pieces) == TEXT and len(pieces) > 8
    assert not any("\ufffd" in p for p in pieces) and all(pieces)
    tokens = [words.decode([i]) for i in words.encode(TEXT)]
    assert any("\ufffd" in t for t in tokens), "token by token there are halves"


@pytest.mark.parametrize("stop", ["END", " caf", "é,", "👍", "Gr", "ß"])
def test_a_stop_text_cuts_exactly_and_never_shows(words, stop):
    network, how = says(words, TEXT), Sampling(99, 0, stop=("nowhere", stop))
    (got,) = answer(network, [[7, 8, 9]], sampling=how, tokenizer=words, stop_ids=frozenset({2}))
    assert got.text == TEXT[: TEXT.index(stop)] and got.finish == "stop_string"
    assert stop in words.decode(got.ids) and stop not in words.decode(got.ids[:-1])
    shown = list(stream(network, [7, 8, 9], sampling=how, tokenizer=words, stop_ids=frozenset({2})))
    assert "".join(shown) == got.text


def test_what_only_begins_a_stop_text_is_shown_in_the_end(words):
    shown = list(
        stream(
            says(words, "a, b, EN"),
            [7, 8, 9],
            sampling=Sampling(99, 0, stop=("END",)),
            tokenizer=words,
            stop_ids=frozenset({2}),
        )
    )
    assert "".join(shown) == "a, b, EN"
    reader = Reader(words, ("b, END",))
    held = []
    for i in words.encode("a, b, EN"):
        reader.push(i)
        held.append(reader.take())
    assert "".join(held) == "a, "
    assert not reader.end() and reader.take() == "b, EN"


def test_length_and_stop(words):
    network = says(words, TEXT)
    (short,) = answer(network, [[7, 8, 9]], sampling=Sampling(4, 0), tokenizer=words, stop_ids=frozenset({2}))
    assert short.finish == "length" and len(short.ids) == 4 and TEXT.startswith(short.text.rstrip("\ufffd"))
    (whole,) = answer(network, [[7, 8, 9]], sampling=Sampling(99, 0), tokenizer=words, stop_ids=frozenset({2}))
    assert whole.finish == "stop" and whole.text == TEXT and 2 not in whole.ids
    with pytest.raises(UsageError, match="one answer can be streamed"):
        stream(network, [7], sampling=Sampling(n=2), tokenizer=words)


class Noise(Says):
    def forward(self, ids, step, at=None):
        ends = [p + n for p, n in zip(step.past, step.rows.lengths, strict=True)]
        return torch.stack([torch.randn(self.size, generator=torch.Generator().manual_seed(n)) for n in ends]) * 3


SCHEMA = {
    "type": "object",
    "properties": {
        "desk": {"enum": ["sport", "tech"]},
        "headline": {"type": "string", "maxLength": 20},
        "page": {"type": "integer", "minimum": 1, "maximum": 40},
    },
    "required": ["desk", "headline", "page"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_noise_writes_json_of_the_schema(words, temperature):
    network = Noise([], 0, words.vocab_size + 7)  # heads are often larger than their vocabulary
    how = Sampling(60, temperature, seed=3)
    prompts = [[5] * n for n in (1, 4, 2, 9)]
    filters = schema_filters(words, SCHEMA)
    got = answer(network, prompts, sampling=how, tokenizer=words, stop_ids=words.stop_ids, filters=filters, batch=3)
    for one in got:
        found = json.loads(one.text)
        assert set(found) == {"desk", "headline", "page"} and found["desk"] in ("sport", "tech")
        assert 1 <= found["page"] <= 40 and len(found["headline"]) <= 20
        assert one.finish == "stop" and json.dumps(found, ensure_ascii=False) == one.text.replace("\\/", "/")
    assert len({one.text for one in got}) == 4
    free = answer(network, prompts, sampling=how, tokenizer=words, stop_ids=words.stop_ids)
    assert not any(one.text.startswith("{") for one in free)


def test_the_end_is_allowed_where_the_json_is_complete_and_nowhere_else(words):
    follow = schema_filters(words, SCHEMA).start()
    ids, scores = [1, 2], torch.zeros(words.vocab_size)
    text = words.encode('{"desk": "tech", "headline": "a", "page": 4', special=False)
    (brace,) = words.encode("}", special=False)
    assert follow(ids, scores, 0)[2] == -torch.inf
    for token in text:
        ids.append(token)
        assert follow(ids, scores, 0)[2] == -torch.inf
    ids.append(brace)
    left = follow(ids, scores, 0)
    assert left.isfinite().nonzero().flatten().tolist() == [2]


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "nonsense"},
        {"type": "string", "pattern": "("},
        {"$ref": "#/nowhere"},
        {"type": "object", "properties": 3},
    ],
)
def test_a_bad_schema_is_one_line(words, schema):
    with pytest.raises(UsageError, match="this JSON schema cannot be used: ") as error:
        schema_filters(words, schema)
    assert "\n" not in str(error.value)


def test_a_schema_that_is_too_big_is_refused(words):
    deep = {"type": "string"}
    for _ in range(9):
        deep = {"type": "object", "properties": {f"k{i}": deep for i in range(4)}, "additionalProperties": False}
    with pytest.raises(UsageError, match="this JSON schema cannot be used: "):
        schema_filters(words, deep)
