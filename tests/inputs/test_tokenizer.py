"""Text <-> ids against transformers' fast tokenizers, which wrap the same library but go their own way to it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend
from transformers import AutoTokenizer, BertTokenizerFast, GPT2TokenizerFast, RobertaTokenizerFast

from groundup.core.errors import GroundupError
from groundup.inputs.tokenizer import Encoded, Tokenizer

TEXTS = [
    "",
    " ",
    "The minister said on Monday",
    " leading and trailing ",
    "Three   spaces\t\ttabs\r\n\n\nlines\n",
    "1234567890 12.5 x  42",
    "She didn't; they'LL. WHAT'S that?",
    "price £5.50, naïve café, cafe\u0301",
    "日本語のテキスト。 Привет, мир!",
    "😀 👩‍👧 🇬🇧 end",
    "def add(a, b):\n    return a + b",
    "\x00\x01 \u200b zero \ufeff width \ufdd0",
    "½ ² Ⅷ ٣",
]
FOLDED = "＜/s＞"  # in Unicode's compatibility form, which some tokenizers make of a text, it is `</s>`
SPELLED = [
    "<|im_end|>",
    "a</s>b<s> c",
    "<|eot_id|><|im_start|>system\n",
    "[SEP] x [MASK]",
    FOLDED,
    "<end_of_turn> <pad>",
]


def test_ids_and_text_are_those_of_the_reference(kind: str, build: Callable[[str], Path]) -> None:
    ours, theirs = Tokenizer.from_folder(build(kind)), AutoTokenizer.from_pretrained(build(kind))
    assert ours.vocab_size == len(theirs)
    for text in [*TEXTS, *SPELLED]:
        if kind == "unigram" and text == FOLDED:
            continue  # the reference lets it become `</s>`
        ids = ours.encode(text, control=True)
        assert ids == theirs(text)["input_ids"]
        assert ours.encode(text, special=False, control=True) == theirs(text, add_special_tokens=False)["input_ids"]
        for skip in (True, False):
            expected = theirs.decode(ids, skip_special_tokens=skip, clean_up_tokenization_spaces=False)
            assert ours.decode(ids, skip_control=skip) == expected
    assert ours.encode_batch(TEXTS, control=True) == [theirs(text)["input_ids"] for text in TEXTS]
    assert ours.encode_batch([*TEXTS, *SPELLED]) == [ours.encode(text) for text in [*TEXTS, *SPELLED]]
    assert (ours.bos_id, ours.eos_id) == (theirs.bos_token_id, theirs.eos_token_id)


def test_text_never_becomes_a_control_token(kind: str, build: Callable[[str], Path]) -> None:
    ours = Tokenizer.from_folder(build(kind))
    theirs = AutoTokenizer.from_pretrained(build(kind), split_special_tokens=True)
    control = set(ours.control.values())
    genuine = 0
    for text in [*SPELLED, *ours.control, "".join(ours.control) * 3]:
        plain = ours.encode(text, special=False)
        allowed = {theirs.unk_token_id}
        assert control.isdisjoint(set(plain) - allowed), text
        genuine += not control.isdisjoint(ours.encode(text, special=False, control=True))
        if kind != "unigram":  # there the reference lets `</s>` through, as a piece of its vocabulary
            assert plain == theirs(text, add_special_tokens=False)["input_ids"]
    assert genuine > 2  # the same texts do have control tokens where they are wanted


def test_a_unigram_piece_that_is_a_control_token_is_cut(build: Callable[[str], Path]) -> None:
    ours = Tokenizer.from_folder(build("unigram"))
    reference = AutoTokenizer.from_pretrained(build("unigram"), split_special_tokens=True)
    assert ours.eos_id in reference("a</s>b", add_special_tokens=False)["input_ids"]
    for text in ("a</s>b", "＜/s＞", "</s></s></s>" * 5):
        ids = ours.encode(text)
        assert ids[-1] == ours.eos_id and ours.eos_id not in ids[:-1]


def test_padding_and_truncation_of_the_file_are_not_ours(build: Callable[[str], Path], tmp_path: Path) -> None:
    backend = Backend.from_file(str(build("chatml") / "tokenizer.json"))
    backend.enable_padding(direction="left", length=37)
    backend.enable_truncation(3)
    backend.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"padding_side": "left", "model_max_length": 3}))
    plain, ours = Tokenizer.from_folder(build("chatml")), Tokenizer.from_folder(tmp_path)
    assert ours.encode(TEXTS[2]) == plain.encode(TEXTS[2])
    assert ours.encode_batch(["a", TEXTS[2]]) == plain.encode_batch(["a", TEXTS[2]])


def test_saved_and_loaded_again_it_is_the_same(kind: str, build: Callable[[str], Path], tmp_path: Path) -> None:
    ours = Tokenizer.from_folder(build(kind))
    ours.save(tmp_path / "out")
    again, theirs = Tokenizer.from_folder(tmp_path / "out"), AutoTokenizer.from_pretrained(tmp_path / "out")
    before = AutoTokenizer.from_pretrained(build(kind))
    assert again.fingerprint() == ours.fingerprint()
    assert again.control == ours.control and again.template == ours.template and again.vocab_size == ours.vocab_size
    assert theirs.special_tokens_map == before.special_tokens_map
    for text in [*TEXTS, *SPELLED]:
        assert again.encode(text) == ours.encode(text)
        assert theirs(text)["input_ids"] == before(text)["input_ids"]
    raw = (tmp_path / "out" / "tokenizer.json").read_text(encoding="utf-8")
    assert sorted(Backend.from_str(raw).get_vocab()) == sorted(before.get_vocab())  # nothing of ours was left in it


def test_the_fingerprint_changes_with_the_template_and_a_special_token(
    build: Callable[[str], Path], tmp_path: Path
) -> None:
    seen = {Tokenizer.from_folder(build("chatml")).fingerprint()}
    Tokenizer.from_folder(build("chatml")).save(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0].content }}")
    seen.add(Tokenizer.from_folder(tmp_path).fingerprint())
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | {"eos_token": "<|endoftext|>"}))
    seen.add(Tokenizer.from_folder(tmp_path).fingerprint())
    assert len(seen) == 3


def streamed(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    stream = tokenizer.stream()
    return [*(stream.push(place) for place in ids), stream.flush()]


def test_a_stream_gives_whole_characters_and_all_of_the_text(kind: str, build: Callable[[str], Path]) -> None:
    tokenizer = Tokenizer.from_folder(build(kind))
    for text in [*TEXTS, "👩‍👩‍👧‍👦 日本 é" * 3]:
        ids = tokenizer.encode(text)
        pieces = streamed(tokenizer, ids)
        assert "".join(pieces) == tokenizer.decode(ids)
        assert not any("\ufffd" in piece for piece in pieces)
        if kind == "chatml" and text == TEXTS[2]:
            assert sum(map(bool, pieces)) == len(ids)  # and not all of it at the end


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_stream_of_any_ids_is_their_text(data: st.DataObject, build: Callable[[str], Path]) -> None:
    kind = data.draw(st.sampled_from(["chatml", "llama2", "llama2-legacy", "unigram", "wordpiece"]))
    tokenizer = SHARED.setdefault(kind, Tokenizer.from_folder(build(kind)))
    few = (
        st.sampled_from(range(3, 259)) if kind.startswith("llama2") else st.nothing()
    )  # mostly bytes, few make characters
    ids = data.draw(st.lists(st.one_of(few, st.sampled_from(range(tokenizer.vocab_size + 5))), max_size=13))
    assert "".join(streamed(tokenizer, ids)) == tokenizer.decode(ids)


SHARED: dict[str, Tokenizer] = {}


def test_ids_beyond_the_vocabulary_have_no_text(build: Callable[[str], Path]) -> None:
    """A model's table often has more rows than its tokenizer has tokens."""
    tokenizer = Tokenizer.from_folder(build("chatml"))
    beyond = list(range(tokenizer.vocab_size, tokenizer.vocab_size + 40))
    assert tokenizer.decode(beyond) == tokenizer.decode(beyond, skip_control=False) == ""
    assert "".join(streamed(tokenizer, beyond)) == ""


# --- older folders ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [{}, {"do_lower_case": False}, {"strip_accents": False}])
def test_vocab_txt_is_berts_wordpiece(config: dict[str, bool], build: Callable[[str], Path], tmp_path: Path) -> None:
    vocab = Backend.from_file(str(build("wordpiece") / "tokenizer.json")).get_vocab()
    (tmp_path / "vocab.txt").write_text("\n".join(sorted(vocab, key=vocab.__getitem__)) + "\n", encoding="utf-8")
    settings_ = {"tokenizer_class": "BertTokenizer"} | config
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings_))
    ours, theirs = Tokenizer.from_folder(tmp_path), BertTokenizerFast(vocab=vocab, **config)
    for text in [*TEXTS, *SPELLED, "Ünïted KINGDOM"]:
        assert ours.encode(text, control=True) == theirs(text)["input_ids"], text
    assert ours.pad_id == theirs.pad_token_id


@pytest.mark.parametrize("config", [{}, {"add_prefix_space": True}, {"add_bos_token": True}])
def test_vocab_json_with_merges_is_gpt2s_bpe(
    config: dict[str, bool], build: Callable[[str], Path], tmp_path: Path
) -> None:
    model = json.loads((build("chatml") / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    vocab = model["vocab"] | {"<|endoftext|>": len(model["vocab"])}
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    (tmp_path / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    ours = Tokenizer.from_folder(tmp_path)
    theirs = GPT2TokenizerFast(vocab=vocab, merges=[tuple(merge.split(" ")) for merge in merges], **config)
    for text in [*TEXTS, "a<|endoftext|> b"]:
        assert ours.encode(text, control=True) == theirs(text)["input_ids"], text
    assert ours.eos_id == ours.bos_id == theirs.eos_token_id == len(model["vocab"])


@pytest.mark.parametrize("config", [{}, {"add_prefix_space": True}])
def test_vocab_json_of_a_roberta_is_framed_and_its_mask_swallows_a_space(
    config: dict[str, bool], build: Callable[[str], Path], tmp_path: Path
) -> None:
    model = json.loads((build("roberta") / "tokenizer.json").read_text(encoding="utf-8"))
    added = {token["content"]: token["id"] for token in model["added_tokens"]}
    vocab = model["model"]["vocab"] | added
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["model"]["merges"]]
    (tmp_path / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    (tmp_path / "merges.txt").write_text("\n".join(merges), encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "config.json").write_text('{"model_type": "roberta"}')  # the first files say no more of what this is
    ours = Tokenizer.from_folder(tmp_path)
    mask = AddedToken(
        "<mask>", lstrip=True, special=True, normalized=False
    )  # as roberta-base's own tokenizer.json has it
    pairs = [tuple(merge.split(" ")) for merge in merges]
    theirs = RobertaTokenizerFast(vocab=vocab, merges=pairs, mask_token=mask, **config)
    for text in [*TEXTS, *SPELLED, "Paris is <mask>.", "a<mask> b"]:
        assert ours.encode(text, control=True) == theirs(text)["input_ids"], text
    assert (ours.mask_id, ours.pad_id, ours.bos_id) == (theirs.mask_token_id, theirs.pad_token_id, theirs.bos_token_id)
    (tmp_path / "vocab.json").write_text(json.dumps(model["model"]["vocab"]), encoding="utf-8")
    with pytest.raises(GroundupError, match="lacks '<s>'"):
        Tokenizer.from_folder(tmp_path)


@pytest.mark.parametrize(
    ("kind", "family"), [("wordpiece", "bert"), ("wordpiece", "distilbert"), ("roberta", "roberta")]
)
def test_special_tokens_that_nobody_names_are_those_of_the_kind(
    kind: str, family: str, build: Callable[[str], Path], tmp_path: Path
) -> None:
    (tmp_path / "tokenizer.json").write_bytes((build(kind) / "tokenizer.json").read_bytes())
    assert Tokenizer.from_folder(tmp_path).mask_id is None
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family}))
    ours, theirs = Tokenizer.from_folder(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert ours.mask_id is not None
    assert (ours.mask_id, ours.pad_id, ours.bos_id) == (theirs.mask_token_id, theirs.pad_token_id, theirs.bos_token_id)
    (tmp_path / "tokenizer_config.json").write_text('{"mask_token": null}')
    assert Tokenizer.from_folder(tmp_path).mask_id is None


def test_the_template_is_found_wherever_it_may_be(build: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes((build("chatml") / "tokenizer.json").read_bytes())
    config = tmp_path / "tokenizer_config.json"
    named = [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]
    for written, found in (("S", "S"), (named, "D"), (None, None)):
        config.write_text(json.dumps({"chat_template": written}))
        assert Tokenizer.from_folder(tmp_path).template == found
    (tmp_path / "chat_template.jinja").write_text("J")
    config.write_text(json.dumps({"chat_template": "S"}))
    assert Tokenizer.from_folder(tmp_path).template == "J"


def test_special_tokens_map_is_the_fallback(build: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes((build("chatml") / "tokenizer.json").read_bytes())
    (tmp_path / "special_tokens_map.json").write_text(
        json.dumps({"eos_token": "<|im_end|>", "bos_token": "<|im_start|>"})
    )
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"bos_token": None}))
    tokenizer = Tokenizer.from_folder(tmp_path)
    assert tokenizer.bos_id is None and tokenizer.eos_id == tokenizer.control["<|im_end|>"]


def test_tokens_added_in_the_config_are_added(build: Callable[[str], Path], tmp_path: Path) -> None:
    raw = Backend.from_file(str(build("chatml") / "tokenizer.json"))
    raw.save(str(tmp_path / "tokenizer.json"))
    size = raw.get_vocab_size()
    entry = {
        "content": "<extra>",
        "special": True,
        "lstrip": True,
        "rstrip": False,
        "normalized": False,
        "single_word": False,
    }
    config = tmp_path / "tokenizer_config.json"
    config.write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "added_tokens_decoder": {str(size): entry}})
    )
    ours, theirs = Tokenizer.from_folder(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert ours.control["<extra>"] == size
    assert ours.encode("a  <extra> b", control=True) == theirs("a  <extra> b")["input_ids"]
    config.write_text(json.dumps({"added_tokens_decoder": {str(size + 3): entry}}))
    with pytest.raises(GroundupError, match=f"'<extra>' at {size + 3}, its vocabulary has it at {size}"):
        Tokenizer.from_folder(tmp_path)


@pytest.mark.parametrize("add_bos", [True, False])
def test_what_frames_a_text_is_said_by_tokenizer_json(
    add_bos: bool, build: Callable[[str], Path], tmp_path: Path
) -> None:
    (tmp_path / "tokenizer.json").write_bytes((build("llama3") / "tokenizer.json").read_bytes())
    config = json.loads((build("llama3") / "tokenizer_config.json").read_text())
    config |= {"add_bos_token": add_bos, "add_eos_token": True}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    ours, theirs = Tokenizer.from_folder(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert ours.encode("Hello") == theirs("Hello")["input_ids"]
    assert ours.encode("Hello").count(ours.bos_id) == 1


# --- what cannot be read ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "no tokenizer"),
        ({"tokenizer.model": "x"}, "tokenizer.model only.*save_pretrained"),
        ({"tokenizer.json": ""}, "not a tokenizer.json"),
        ({"tokenizer.json": "{"}, "not a tokenizer.json"),
        ({"tokenizer.json": '{"model": {"type": "BPE", "vocab": {}, "merges": ["a b"]}}'}, "not a tokenizer.json"),
        ({"tokenizer.json": "\x80"}, "not a tokenizer.json"),
        ({"vocab.json": "{}", "merges.txt": "a b c"}, "merges.txt, line 1"),
        ({"vocab.json": "{}", "merges.txt": "a b"}, "'a'.*vocab.json"),
        ({"vocab.json": '{"a": "b"}', "merges.txt": ""}, "tokens with their numbers"),
        ({"vocab.json": "{}", "merges.txt": "", "tokenizer_config.json": '{"tokenizer_class": "CLIPTokenizer"}'}, "CLIPTokenizer"),
        ({"vocab.txt": "[UNK]\na\na\n"}, "3 lines, 2 of them different"),
        ({"vocab.txt": "[UNK]\na\n", "tokenizer_config.json": '{"tokenizer_class": "MPNetTokenizer"}'}, "MPNetTokenizer"),
        ({"vocab.txt": "[UNK]\na\n", "tokenizer_config.json": '{"eos_token": "</s>"}'}, "eos_token.*'</s>'.*does not have"),
        ({"vocab.txt": "[UNK]\na\n", "tokenizer_config.json": '{"chat_template": 7}'}, "chat_template.*no text"),
        ({"vocab.txt": "[UNK]\na\n", "tokenizer_config.json": '{"added_tokens_decoder": {"x": {}}}'}, "broken entry 'x'"),
    ],
)  # fmt: skip
def test_a_folder_that_cannot_be_read_says_why_in_one_line(files: dict[str, str], message: str, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(GroundupError, match=message) as caught:
        Tokenizer.from_folder(tmp_path)
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text_say_so(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(b'{"a": "\xff"}')
    with pytest.raises(GroundupError, match="not UTF-8 text"):
        Tokenizer.from_folder(tmp_path)


def test_ids_and_marks_go_together() -> None:
    with pytest.raises(ValueError, match="3 ids, 2 marks"):
        Encoded([1, 2, 3], [True, False])


def test_minilms_own_file_gives_the_references_ids(minilm: Path) -> None:
    ours, theirs = Tokenizer.from_folder(minilm), AutoTokenizer.from_pretrained(minilm)
    for text in [*TEXTS, *SPELLED]:
        assert ours.encode(text, control=True) == theirs(text)["input_ids"], text
