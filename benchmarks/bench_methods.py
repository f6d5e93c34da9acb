"""Each method of tuning that peft has, and full tuning, on the starter: one epoch over the same news rows in float32.

Batches of 16 rows, the same learning rate and number of updates; the rival pads to the longest row of a batch. Full tuning
by LOMO stands beside transformers with AdamW. Peak memory is of the whole process. `--methods ia3,full` runs some.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from bench_tune import NAMES, lora, ours, rival
from side_by_side import compare

MOST = 96


def theirs(name: str, **settings: Any) -> Callable[[], Any]:
    def config() -> Any:
        import peft

        return getattr(peft, name)(task_type="CAUSAL_LM", **settings)

    return config


def method(name: str, **settings: Any) -> Callable[[], Any]:
    def made() -> Any:
        import groundup as gu

        return getattr(gu, name)(**settings)

    return made


METHODS: dict[str, tuple[Callable[[], Any] | None, Callable[[], Any], dict[str, Any]]] = {
    "lora": (lora, method("LoRA", rank=16, alpha=32, targets="all"), {}),
    "dora": (
        theirs("LoraConfig", r=16, lora_alpha=32, target_modules=NAMES, use_dora=True),
        method("LoRA", rank=16, alpha=32, targets="all", dora=True),
        {},
    ),
    "ia3": (
        theirs("IA3Config", target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"]),
        method("IA3"),
        {},
    ),
    "prompt": (theirs("PromptTuningConfig", num_virtual_tokens=20), method("Prompt", length=20), {}),
    "prefix": (theirs("PrefixTuningConfig", num_virtual_tokens=20), method("PrefixTuning", length=20), {}),
    "llama-adapter": (
        theirs("AdaptionPromptConfig", adapter_len=10, adapter_layers=30),
        method("LlamaAdapter", length=10, layers=30),
        {},
    ),
    "full": (None, method("Full"), {}),
    "full by lomo": (None, method("Full"), {"optimizer": "lomo"}),
}

if __name__ == "__main__":
    wanted = list(METHODS)
    if "--methods" in sys.argv:
        at = sys.argv.index("--methods")
        wanted = sys.argv[at + 1].split(",")
        del sys.argv[at : at + 2]
    if "--only" in sys.argv:  # a program's name is "theirs NAME" or "NAME"
        wanted = [sys.argv[sys.argv.index("--only") + 1].removeprefix("peft ")]
    else:
        print(__doc__)
    for name in wanted:
        config, made, settings = METHODS[name]
        programs = {
            f"peft {name}": rival("float32", config, most=MOST),
            name: ours("float32", made, most=MOST, **settings),
        }
        compare(programs, rounds=1, title=f"\n{name}")
