"""Tiny random models of the reference library in folders, each with a byte-level tokenizer: what is written as GGUF in tests."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = rf"(?i:'s|'t|'re|'ve|'m|'ll|'d)|{LETTERS}|\p{{N}}{REST}"  # as in the public tokenizer.json
LLAMA3 = QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
MARKS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TEXTS = [
    "The minister said that the talks of 2024 would go on. She didn't know; they'll say it's fine.",
    "def add(a, b):\n    return a + b  # 12 345\n\n\nprint(add(1, 2))\t£5.50 naïve café 日本語 Привет 😀",
] * 3


@dataclass(frozen=True)
class Tiny:
    """A config of the reference library, and how its tokenizer cuts text into words."""

    family: str
    reference: str
    config: dict[str, Any]
    pre: str = "gpt-2"
    unused: int = 3  # ids of the model that no token has
    seed: int = 0
    names: dict[str, str] = field(default_factory=lambda: {"bos_token": MARKS[0], "eos_token": MARKS[0]})

    def write(self, folder: Path) -> torch.nn.Module:
        """The folder as the reference writes it, weights drawn anew; gives the reference's model."""
        folder.mkdir(parents=True, exist_ok=True)
        tokenizer = bytes_bpe(self.pre)
        tokenizer.save(str(folder / "tokenizer.json"))
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", **self.names}
        (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
        (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
        size = tokenizer.get_vocab_size() + self.unused
        ids = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}
        config = getattr(transformers, f"{self.reference}Config")(vocab_size=size, **{**ids, **self.config})
        suffix = "LMHeadModel" if self.reference == "GPT2" else "ForCausalLM"
        model = getattr(transformers, self.reference + suffix)(config).eval()
        generator = torch.Generator().manual_seed(self.seed)
        for name, parameter in model.named_parameters():
            drawn = torch.randn(parameter.shape, generator=generator) * 0.2
            parameter.data = drawn + 1 if parameter.ndim == 1 and name.endswith("weight") else drawn
        model.save_pretrained(folder)
        return model


def bytes_bpe(pre: str) -> Tokenizer:
    """A byte-level tokenizer that cuts text as the public ones of this name do."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=pre == "llama-bpe"))
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pre in ("gpt-2", "smollm"))
    pattern = {"qwen2": QWEN2, "llama-bpe": LLAMA3}.get(pre)
    first = pre_tokenizers.Digits(individual_digits=True) if pre == "smollm" else None
    first = pre_tokenizers.Split(Regex(pattern), behavior="isolated") if pattern else first
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([first, level]) if first else level
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(mark, special=True, normalized=False) for mark in MARKS])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=330, show_progress=False, initial_alphabet=alphabet, special_tokens=MARKS)
    tokenizer.train_from_iterator(TEXTS, trainer)
    if pre == "llama-bpe":
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{MARKS[0]} $A", special_tokens=[(MARKS[0], 0)]
        )
    return tokenizer


def llama_like(reference: str, width: int, heads: int, kv_heads: int, inner: int, pre: str, **more: Any) -> Tiny:
    sizes = {"hidden_size": width, "num_hidden_layers": 2, "num_attention_heads": heads, "intermediate_size": inner}
    sizes |= {"num_key_value_heads": kv_heads, "max_position_embeddings": 128}
    return Tiny(reference.lower(), reference, sizes | more, pre)


LLAMA3_ROPE = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
WIDE = {"original_max_position_embeddings": 8192, "rope_theta": 500000.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "rope_theta": 10000.0}
LINEAR = {"rope_type": "linear", "factor": 3.0, "rope_theta": 700.0}
BIASES = {"attention_bias": True, "mlp_bias": True, "rms_norm_eps": 2e-3}
TINY = {
    "llama": llama_like("Llama", 64, 4, 2, 96, "smollm", tie_word_embeddings=True),
    "llama-head-dim": llama_like("Llama", 64, 4, 2, 96, "gpt-2", head_dim=32),
    "llama-biases": llama_like("Llama", 96, 3, 1, 64, "llama-bpe", **BIASES),
    "llama3": llama_like("Llama", 64, 2, 2, 96, "llama-bpe", rope_parameters=LLAMA3_ROPE | WIDE),
    "llama-yarn": llama_like("Llama", 64, 2, 1, 96, "gpt-2", rope_parameters=YARN),
    "llama-linear": llama_like("Llama", 64, 2, 1, 96, "gpt-2", rope_parameters=LINEAR),
    "mistral": llama_like("Mistral", 64, 4, 2, 96, "gpt-2", sliding_window=None),
    "qwen2": llama_like("Qwen2", 64, 4, 2, 96, "qwen2", tie_word_embeddings=True),
    "qwen3": llama_like("Qwen3", 64, 4, 2, 96, "qwen2", head_dim=32),
    "gpt2": Tiny("gpt2", "GPT2", {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128}),
}
