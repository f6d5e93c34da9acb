"""Small tokenizers of every kind, trained here, each in a folder as the public models have it."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from groundup.inputs.vocabulary import LLAMA3

CORPUS = [
    "The minister said on Monday that the talks would go on until the end of 2024, or longer.",
    "def add(a, b):\n    return a + b  # 12 345\n\n\nprint(add(1, 2))",
    "Häuser, £5.50, naïve café; 日本語のテキスト。 Привет, мир! 😀 👩‍👧 1,234.56 %",
    "user assistant system [INST] [/INST] <|im_ end|> model INST end start turn of",
    "She didn't know; they'll say it's fine. WHAT'S THAT? Don't!   Three   spaces\tand\ttabs\r\nlines.",
] * 3

CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou help.<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system_message = '<<SYS>>\n' + messages[0]['content'].strip() + '\n<</SYS>>\n\n' %}{% else %}"
    "{% set loop_messages = messages %}{% set system_message = '' %}{% endif %}{% for message in loop_messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if loop.index0 == 0 %}{% set content = system_message + message['content'] %}{% else %}"
    "{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
    "{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
LLAMA3_TEMPLATE = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim"
    " + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
ZEPHYR = (
    "{% for message in messages %}\n{% if message['role'] == 'user' %}\n{{ '<|user|>\n' + message['content'] + eos_token }}\n"
    "{% elif message['role'] == 'system' %}\n{{ '<|system|>\n' + message['content'] + eos_token }}\n"
    "{% elif message['role'] == 'assistant' %}\n{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n{% endif %}\n"
    "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% for message in messages %}{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"
)

Build = Callable[[str], Path]


def special(text: str, **flags: bool) -> AddedToken:
    return AddedToken(text, special=True, normalized=False, **flags)


def bytes_bpe(control: list[str], split: str | None = None) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split is None)
    if split is None:
        tokenizer.pre_tokenizer = byte_level
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(split), behavior="isolated"), byte_level]
        )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=431, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_special_tokens([special(token) for token in control])
    return tokenizer


def spm_bpe(control: list[str], legacy: bool) -> Tokenizer:
    """As Llama 2's tokenizer.json: in older files the space in front comes from a normalizer, in newer ones from Metaspace."""
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    space_first = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.normalizer = space_first
    trainer = trainers.BpeTrainer(
        vocab_size=577, show_progress=False, special_tokens=["<unk>", "<s>", "</s>", *byte_tokens], limit_alphabet=70,
        max_token_length=9,
    )  # fmt: skip
    words = [word for line in CORPUS for word in re.findall(r" ?\S+|\s", line)]  # sentencepiece merges no further
    tokenizer.train_from_iterator(words, trainer)
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["id"] < 3]  # bytes are no added tokens
    tokenizer = Tokenizer.from_str(json.dumps(state))
    if not legacy:
        tokenizer.normalizer = None  # type: ignore[assignment]
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="first", split=False)
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    tokenizer.add_special_tokens([special(token) for token in control])
    bos = tokenizer.token_to_id("<s>")
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", bos)])
    return tokenizer


def unigram() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace("▁", prepend_scheme="always")
    trainer = trainers.UnigramTrainer(
        vocab_size=211, show_progress=False, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>"
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    end = tokenizer.token_to_id("</s>")
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", end)])
    return tokenizer


def wordpiece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(
        CORPUS, trainers.WordPieceTrainer(vocab_size=293, special_tokens=names, show_progress=False)
    )
    cls, sep = tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", cls), ("[SEP]", sep)]
    )
    return tokenizer


def make(kind: str) -> tuple[Tokenizer, dict[str, Any], str | None]:
    """(tokenizer, tokenizer_config.json, chat template)"""
    if kind == "chatml":
        ends = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "unk_token": "<|endoftext|>"}
        return bytes_bpe(["<|endoftext|>", "<|im_start|>", "<|im_end|>"]), ends, CHATML
    if kind == "llama3":
        marks = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
        tokenizer = bytes_bpe(marks, LLAMA3)
        begin = tokenizer.token_to_id(marks[0])
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{marks[0]} $A", special_tokens=[(marks[0], begin)]
        )
        return tokenizer, {"bos_token": marks[0], "eos_token": marks[1]}, LLAMA3_TEMPLATE
    end = {"__type": "AddedToken", "content": "</s>", "special": True, "normalized": False}
    ends = {"bos_token": "<s>", "eos_token": end, "unk_token": "<unk>"}
    if kind in ("llama2", "llama2-legacy"):
        return spm_bpe([], legacy=kind.endswith("legacy")), ends, LLAMA2
    if kind == "zephyr":
        return spm_bpe([], legacy=True), ends, ZEPHYR
    if kind == "gemma":
        return spm_bpe(["<start_of_turn>", "<end_of_turn>"], legacy=False), ends, GEMMA
    if kind == "unigram":
        return unigram(), {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}, None
    if kind == "roberta":
        marks = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "sep_token": "</s>", "pad_token": "<pad>",
                 "cls_token": "<s>", "mask_token": "<mask>"}  # fmt: skip
        tokenizer = bytes_bpe(["<s>", "<pad>", "</s>", "<unk>"])
        tokenizer.add_special_tokens([special("<mask>", lstrip=True)])
        ids = {token: tokenizer.token_to_id(token) for token in ("<s>", "</s>")}
        tokenizer.post_processor = processors.RobertaProcessing(("</s>", ids["</s>"]), ("<s>", ids["<s>"]))
        return tokenizer, marks, None
    assert kind == "wordpiece"
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    return wordpiece(), names, None


CHATTING = ["chatml", "llama3", "llama2", "llama2-legacy", "zephyr", "gemma"]
KINDS = [*CHATTING, "unigram", "wordpiece", "roberta"]


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """`build(kind)` -> a folder with tokenizer.json, tokenizer_config.json and chat_template.jinja; made once."""
    made: dict[str, Path] = {}

    def folder(kind: str) -> Path:
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp(kind)
            tokenizer, config, template = make(kind)
            tokenizer.save(str(made[kind] / "tokenizer.json"))
            config = {"tokenizer_class": "PreTrainedTokenizerFast"} | config
            (made[kind] / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
            if template is not None:
                (made[kind] / "chat_template.jinja").write_text(template, encoding="utf-8")
        return made[kind]

    return folder


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=CHATTING)
def chatting(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def _file(starter: Callable[[str], Path], name: str, pattern: str) -> Path:
    path = starter(name)
    return path if path.match(pattern) else next(path.rglob(pattern))


@pytest.fixture(scope="session")
def smollm2(starter: Callable[[str], Path]) -> Path:
    return _file(starter, "smollm2-135m-instruct", "*.gguf")


@pytest.fixture(scope="session")
def minilm(starter: Callable[[str], Path]) -> Path:
    return _file(starter, "all-minilm-l6-v2", "tokenizer.json").parent
