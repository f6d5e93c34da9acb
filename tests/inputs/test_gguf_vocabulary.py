"""The tokenizer in a GGUF file, against transformers' reading of it, or against the tokenizer that it came from."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from groundup.checkpoints.gguf import open_gguf
from groundup.core.errors import GroundupError
from groundup.inputs.tokenizer import Tokenizer

TEXTS = [
    "", " ", "Hello world", " leading", "a\n\n\nb\t\tc  d", "1234567890 12 3", "price £5.50 & €3", "日本語のテキスト。",
    "😀 👩‍👩‍👧‍👦 🇬🇧", "def f(x):\n    return x**2\n", "don't I'LL we've", "café cafe\u0301",
    "\r\n a\x00b", "…—“quotes”",
    "<|im_end|> a <|im_start|>", "<think>so</think>", "Привет, мир!", "x" * 70, "  \n  \n",
]  # fmt: skip


def metadata_of(path: Path) -> dict[str, Any]:
    return {name: field.contents() for name, field in gguf.GGUFReader(path).fields.items()}


@pytest.fixture(scope="module")
def ours(smollm2: Path) -> Tokenizer:
    return Tokenizer.from_gguf(open_gguf(smollm2).metadata)


@pytest.fixture(scope="module")
def theirs(smollm2: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(smollm2.parent, gguf_file=smollm2.name)


def test_smollm2_gives_the_ids_of_the_reference(ours: Tokenizer, theirs: PreTrainedTokenizerBase) -> None:
    assert ours.vocab_size == len(theirs) == 49152
    for text in TEXTS:
        assert ours.encode(text, control=True) == theirs(text)["input_ids"], text
        assert ours.encode(text) == theirs(text, split_special_tokens=True)["input_ids"], text
        assert ours.decode(ours.encode(text)) == text
    assert [ours.bos_id, ours.eos_id, ours.pad_id] == [theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id]
    assert ours.end_of_turn == ours.control["<|im_end|>"] and ours.stop_ids == {ours.end_of_turn}
    assert len(ours.control) == 17


def test_smollm2s_digits_stand_alone(ours: Tokenizer, theirs: PreTrainedTokenizerBase) -> None:
    """As in the model's own tokenizer.json (Digits, then ByteLevel); transformers leaves that out for a GGUF file."""
    state = json.loads(theirs.backend_tokenizer.to_str())
    own = Backend.from_str(json.dumps(state))
    own.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    texts = [*TEXTS, "x  12", "  7", "½ ² Ⅷ ٣", "1 000 000", "in 2024, 3.5%"]
    assert [ours.encode(text, control=True) for text in texts] == [own.encode(text).ids for text in texts]
    assert ours.encode("x  12") != theirs("x  12")["input_ids"]


def test_smollm2_saved_as_a_folder_is_the_same_tokenizer(ours: Tokenizer, tmp_path: Path) -> None:
    ours.save(tmp_path)
    again, theirs = Tokenizer.from_folder(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    talk = [{"role": "user", "content": "£5 is 12  34?"}, {"role": "assistant", "content": "Yes."}]
    assert again.fingerprint() == ours.fingerprint()
    for text in TEXTS:
        assert again.encode(text) == ours.encode(text)
        assert theirs(text)["input_ids"] == ours.encode(text, control=True)
    for prompt in (True, False):
        expected = theirs.apply_chat_template(talk, add_generation_prompt=prompt, return_dict=False)
        assert (
            again.chat(talk, add_generation_prompt=prompt) == ours.chat(talk, add_generation_prompt=prompt) == expected
        )


# --- other kinds, written here ----------------------------------------------------------------------------------------


def write(path: Path, values: dict[str, Any]) -> dict[str, Any]:
    """A GGUF file with these keys, besides what any llama has."""
    writer = gguf.GGUFWriter(path, "llama")
    for key in ("block_count", "context_length", "embedding_length", "feed_forward_length", "attention.head_count"):
        writer.add_uint32(f"llama.{key}", 1)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    for key, value in values.items():
        if isinstance(value, list):
            writer.add_array(f"tokenizer.ggml.{key}", value)
        elif isinstance(value, bool):
            writer.add_bool(f"tokenizer.ggml.{key}", value)
        else:
            (writer.add_uint32 if isinstance(value, int) else writer.add_string)(f"tokenizer.ggml.{key}", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return metadata_of(path)


def sentencepiece(build: Callable[[str], Path]) -> dict[str, Any]:
    vocab = Backend.from_file(str(build("gemma") / "tokenizer.json")).get_vocab()
    tokens = sorted(vocab, key=vocab.__getitem__)
    kinds = [
        2 if t == "<unk>" else 6 if t.startswith("<0x") else 3 if t[0] == "<" and t[-1] == ">" and len(t) > 2 else 1
        for t in tokens
    ]
    scores = [0.0 if kind != 1 else -float(place) for place, kind in enumerate(kinds)]
    return {
        "model": "llama", "tokens": tokens, "scores": scores, "token_type": kinds,
        "bos_token_id": vocab["<s>"], "eos_token_id": vocab["</s>"], "unknown_token_id": vocab["<unk>"],
    }  # fmt: skip


@pytest.mark.parametrize("extra", [{}, {"add_space_prefix": False}, {"add_bos_token": False, "add_eos_token": True}])
def test_a_sentencepiece_llama_gives_the_ids_of_the_reference(
    extra: dict[str, bool], build: Callable[[str], Path], tmp_path: Path
) -> None:
    ours = Tokenizer.from_gguf(write(tmp_path / "m.gguf", sentencepiece(build) | extra))
    theirs = AutoTokenizer.from_pretrained(tmp_path, gguf_file="m.gguf")
    if "add_space_prefix" in extra:  # which the reference does not look at
        theirs.backend_tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="never", split=False)
        theirs.backend_tokenizer.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        )
    for text in [*TEXTS, "The minister said that the talks", "a</s>b<s>", "<start_of_turn>user"]:
        ids = ours.encode(text, control=True)
        assert ids == theirs(text)["input_ids"], text
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def test_sentencepiece_text_makes_no_byte_or_control_token(build: Callable[[str], Path], tmp_path: Path) -> None:
    ours = Tokenizer.from_gguf(write(tmp_path / "m.gguf", sentencepiece(build)))
    for text in ("<0x0A>", "a</s>b", "<unk>", "<s><start_of_turn>"):
        assert ours.decode(ours.encode(text)) == text
        assert ours.control.keys().isdisjoint(map(ours._backend.id_to_token, ours.encode(text, special=False)))


def bytes_of(build: Callable[[str], Path], kind: str) -> tuple[Backend, dict[str, Any]]:
    backend = Backend.from_file(str(build(kind) / "tokenizer.json"))
    vocab = backend.get_vocab()
    tokens = sorted(vocab, key=vocab.__getitem__)
    merges = json.loads(backend.to_str())["model"]["merges"]
    return backend, {
        "model": "gpt2", "tokens": tokens, "merges": [" ".join(pair) for pair in merges],
        "token_type": [3 if t.startswith("<|") and t.endswith("|>") else 1 for t in tokens],
    }  # fmt: skip


@pytest.mark.parametrize(("pre", "kind"), [("gpt-2", "chatml"), ("default", "chatml"), ("llama-bpe", "llama3")])
def test_byte_level_kinds_give_the_ids_of_the_tokenizer_they_came_from(
    pre: str, kind: str, build: Callable[[str], Path]
) -> None:
    backend, values = bytes_of(build, kind)
    ours = Tokenizer.from_gguf({f"tokenizer.ggml.{key}": value for key, value in (values | {"pre": pre}).items()})
    for text in [*TEXTS, "12345678 x  12"]:
        assert ours.encode(text, control=True) == backend.encode(text, add_special_tokens=False).ids, text


@pytest.mark.parametrize("pre", ["qwen2", "tekken", "llama3", "gpt-2"])
def test_byte_level_kinds_cut_text_as_the_reference_does(
    pre: str, build: Callable[[str], Path], tmp_path: Path
) -> None:
    _, values = bytes_of(build, "chatml")
    ours = Tokenizer.from_gguf(write(tmp_path / "m.gguf", values | {"pre": pre, "bos_token_id": 1, "eos_token_id": 2}))
    theirs = AutoTokenizer.from_pretrained(tmp_path, gguf_file="m.gguf")
    for text in [*TEXTS, "12345678 x  12", "CamelCase/path\n/x", "it'S"]:
        assert ours.encode(text, control=True) == theirs(text)["input_ids"], text


def test_user_defined_tokens_are_found_in_plain_text(build: Callable[[str], Path]) -> None:
    _, values = bytes_of(build, "chatml")
    values |= {"tokens": [*values["tokens"], "<think>", "   "], "token_type": [*values["token_type"], 4, 4]}
    metadata = {f"tokenizer.ggml.{key}": value for key, value in values.items()}
    ours = Tokenizer.from_gguf(metadata)
    think = ours.vocab_size - 2
    assert think in ours.encode("a<think>b") and think + 1 in ours.encode("a   b")
    assert ours.decode([think]) == "<think>"
    written = Tokenizer.from_gguf(metadata | {"tokenizer.chat_template": "{{ '<think>' }}"})  # now the template's own
    assert think not in written.encode("a<think>b") and think + 1 in written.encode("a   b")


def test_a_bert_gives_the_ids_of_its_vocab_txt(minilm: Path) -> None:
    theirs = AutoTokenizer.from_pretrained(minilm)
    pieces = (minilm / "vocab.txt").read_text(encoding="utf-8").split("\n")[:-1]
    control = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}
    metadata = {
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.tokens": [p if p in control else p[2:] if p.startswith("##") else "▁" + p for p in pieces],
        "tokenizer.ggml.token_type": [3 if piece in control else 1 for piece in pieces],
    }
    ours = Tokenizer.from_gguf(metadata)
    for text in [*TEXTS, "Ünïted KINGDOM [MASK] [SEP]"]:
        assert ours.encode(text, control=True) == theirs(text)["input_ids"], text


# --- what cannot be read ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": None}, "tokenizer is a None"),
        ({"model": "t5"}, "tokenizer is a 't5'"),
        ({"pre": "mystery-9"}, "as 'mystery-9'.*not known.*smollm"),
        ({"tokens": None}, "tokens is not a list of texts"),
        ({"tokens": [1, 2]}, "tokens is not a list of texts"),
        ({"tokens": ["a", "a"], "token_type": [1, 1]}, "same token twice"),
        ({"merges": None}, "merges is not a list of texts"),
        ({"merges": ["a b c"]}, "not two tokens"),
        ({"merges": ["never there"]}, "'never', which is not in the vocabulary"),
        ({"token_type": [1]}, "token_type has 1 entries"),
        ({"eos_token_id": 10**6}, "eos_token_id is 1000000, but there are"),
        ({"eos_token_id": -1}, "eos_token_id is -1, but there are"),
        ({"model": "llama"}, "a llama, not of 'gemma3'"),
        ({"chat_template": 5}, "chat_template is no text"),
    ],
)
def test_what_cannot_be_read_says_which_key(change: dict[str, Any], message: str, build: Callable[[str], Path]) -> None:
    _, values = bytes_of(build, "chatml")
    metadata = {f"tokenizer.ggml.{key}": value for key, value in (values | change).items() if value is not None}
    metadata["tokenizer.chat_template"] = metadata.pop("tokenizer.ggml.chat_template", None)
    with pytest.raises(GroundupError, match=message) as caught:
        Tokenizer.from_gguf(metadata | {"general.architecture": "gemma3"})
    assert "\n" not in str(caught.value)


def test_scores_must_be_there_for_every_token(build: Callable[[str], Path]) -> None:
    values = sentencepiece(build) | {"scores": [0.0]}
    metadata = {f"tokenizer.ggml.{key}": value for key, value in values.items()}
    with pytest.raises(GroundupError, match="scores has 1 entries for"):
        Tokenizer.from_gguf(metadata | {"general.architecture": "llama"})
