"""A tokenizer of bytes, small enough to count by hand: every byte is a token, and four control tokens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import AddedToken
from tokenizers import Tokenizer as Reference
from tokenizers.decoders import ByteLevel as ByteDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import TemplateProcessing

from groundup.inputs.tokenizer import Tokenizer

TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def build(folder: Path, *, template: str | None, bos: bool = False) -> Tokenizer:
    alphabet = sorted(ByteLevel.alphabet())
    reference = Reference(BPE({letter: number for number, letter in enumerate(alphabet)}, []))
    reference.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=False)
    reference.decoder = ByteDecoder()
    for token in ("<s>", "</s>", "<|im_start|>", "<|im_end|>"):
        reference.add_special_tokens([AddedToken(token, special=True, normalized=False)])
    if bos:
        reference.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 256)])
    folder.mkdir()
    reference.save(str(folder / "tokenizer.json"))
    end = "</s>" if template is None else "<|im_end|>"
    config = {"bos_token": "<s>", "eos_token": end, "tokenizer_class": "PreTrainedTokenizerFast"}
    if template:
        config["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return Tokenizer.from_folder(folder)


@pytest.fixture(scope="session")
def tooled(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """Its template begins with the names of the tools."""
    told = "{% for tool in tools or [] %}<|im_start|>tools\n{{ tool.function.name }}<|im_end|>\n{% endfor %}"
    return build(tmp_path_factory.mktemp("tooled") / "t", template=told + TEMPLATE)


@pytest.fixture(scope="session")
def chatty(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """With a chat template, turns as ChatML writes them."""
    return build(tmp_path_factory.mktemp("chatty") / "t", template=TEMPLATE)


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """Without a chat template; texts begin with <s>."""
    return build(tmp_path_factory.mktemp("plain") / "t", template=None, bos=True)
