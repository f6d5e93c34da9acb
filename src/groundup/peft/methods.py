"""All methods of tuning by name. A new one is a file beside this one, and its class in this list."""

from __future__ import annotations

from groundup.peft.bitfit import BitFit
from groundup.peft.bottleneck import Bottleneck
from groundup.peft.full import Freeze, Full
from groundup.peft.ia3 import IA3
from groundup.peft.llama_adapter import LlamaAdapter
from groundup.peft.lora import LoRA
from groundup.peft.method import Method
from groundup.peft.mixture import PromptMixture
from groundup.peft.prefix import PrefixTuning
from groundup.peft.prompt import Prompt

METHODS: dict[str, type[Method]] = {
    m.kind: m for m in (LoRA, IA3, Prompt, PromptMixture, PrefixTuning, LlamaAdapter, Bottleneck, BitFit, Freeze, Full)
}
PEFT_TYPES: dict[str, type[Method]] = {m.peft_type: m for m in METHODS.values()} | {
    "GROUNDUP_ADAPTION_PROMPT": LlamaAdapter
}
