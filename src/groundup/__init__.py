"""Foundation models from the ground up.

    import groundup as gu
    lm = gu.load("smollm2-135m-instruct")
    lm.generate("The capital of France is", max_tokens=16, temperature=0)

Names are looked up when they are first used, so `import groundup` itself loads no other library.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from groundup import data, models
    from groundup.api import (
        adapt,
        build,
        combine,
        compare,
        convert,
        doctor,
        download,
        estimate,
        evaluate,
        find_learning_rate,
        finetune,
        load,
        merge,
        pretrain,
        quantize,
        save,
        starters,
    )
    from groundup.model import Model
    from groundup.peft.bitfit import BitFit
    from groundup.peft.bottleneck import Bottleneck
    from groundup.peft.full import Freeze, Full
    from groundup.peft.ia3 import IA3
    from groundup.peft.llama_adapter import LlamaAdapter
    from groundup.peft.lora import LoRA
    from groundup.peft.mixture import PromptMixture
    from groundup.peft.prefix import PrefixTuning
    from groundup.peft.prompt import Prompt

__version__ = "0.1.0"

__all__ = [
    "load",
    "build",
    "download",
    "starters",
    "adapt",
    "LoRA",
    "IA3",
    "Prompt",
    "PromptMixture",
    "PrefixTuning",
    "LlamaAdapter",
    "Bottleneck",
    "BitFit",
    "Freeze",
    "Full",
    "Model",
    "estimate",
    "finetune",
    "compare",
    "combine",
    "quantize",
    "convert",
    "find_learning_rate",
    "pretrain",
    "evaluate",
    "merge",
    "save",
    "doctor",
    "models",
    "data",
]

_ROOMS = {"models", "data"}
_HOMES = {name: "groundup.api" for name in __all__ if name not in _ROOMS} | {
    "LoRA": "groundup.peft.lora",
    "IA3": "groundup.peft.ia3",
    "Prompt": "groundup.peft.prompt",
    "PromptMixture": "groundup.peft.mixture",
    "PrefixTuning": "groundup.peft.prefix",
    "LlamaAdapter": "groundup.peft.llama_adapter",
    "Bottleneck": "groundup.peft.bottleneck",
    "BitFit": "groundup.peft.bitfit",
    "Freeze": "groundup.peft.full",
    "Full": "groundup.peft.full",
    "Model": "groundup.model",
}


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return import_module(f"groundup.{name}")
    if name in _HOMES:
        found = getattr(import_module(_HOMES[name]), name)
        globals()[name] = found
        return found
    raise AttributeError(f"module 'groundup' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
