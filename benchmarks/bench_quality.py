"""What eight-bit activations cost, beside llama.cpp's own rounding: perplexity and KL on fixed texts, and how far greedy answers of 200
tokens agree with those of the same weights in plain float32.

    python benchmarks/bench_quality.py          # llama.cpp's columns need llama-cpp-python
"""

from __future__ import annotations

import ctypes
from statistics import mean

from bench_kernels import file

import groundup as gu
from groundup.core.machine import processor
from groundup.evaluation.cost import PASSAGES, cost
from groundup.inference.decode import answer
from groundup.inference.sampling import Sampling

OPENINGS = (
    "The history of the printing press began when",
    "To make bread at home, you first",
    "The three largest rivers of Europe are",
    "Dear Sir, I am writing to you because",
    "In mathematics, a prime number is",
    "The old man looked at the sea and",
    "A good night's sleep matters since",
    "The parliament voted on Tuesday to",
)
TOKENS = 200


def agreed(a: list[int], b: list[int]) -> int:
    """Tokens before the first that differs."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def by_llama(kind: str, prompts: list[list[int]]) -> list[list[int]]:
    """Greedy answers of llama.cpp to these ids."""
    import llama_cpp as cpp
    import numpy as np

    silent = cpp.llama_log_callback(lambda *_: None)
    cpp.llama_log_set(silent, ctypes.c_void_p(0))
    model = cpp.llama_model_load_from_file(str(file(kind)).encode(), cpp.llama_model_default_params())
    settings = cpp.llama_context_default_params()
    settings.n_ctx, settings.n_threads, settings.n_threads_batch = 512, 2, 2
    context = cpp.llama_init_from_model(model, settings)
    size = cpp.llama_vocab_n_tokens(cpp.llama_model_get_vocab(model))
    found = []
    for ids in prompts:
        cpp.llama_memory_clear(cpp.llama_get_memory(context), False)
        given, said = list(ids), []
        while len(said) < TOKENS:
            held = (cpp.llama_token * len(given))(*given)  # the batch points into it
            assert cpp.llama_decode(context, cpp.llama_batch_get_one(held, len(given))) == 0
            given = [int(np.ctypeslib.as_array(cpp.llama_get_logits_ith(context, -1), (size,)).argmax())]
            said += given
        found.append(said)
    return found


def answers(lm: gu.Model, prompts: list[list[int]]) -> list[list[int]]:
    """Ours, which nothing ends early, as nothing ends llama.cpp's."""
    found = answer(lm.network, prompts, sampling=Sampling(max_tokens=TOKENS, temperature=0), batch=1)
    return [each.ids for each in found]


if __name__ == "__main__":
    print(processor())
    for kind in ("q4_1", "q8_0", "q4_0"):
        plain, small = gu.load(file(kind)), gu.load(file(kind), dtype="int8")
        prompts = [plain.encode(text) for text in OPENINGS]
        print(f"{kind}: {cost(plain, small, PASSAGES)}")
        exact, ours = answers(plain, prompts), answers(small, prompts)
        told = {"groundup int8": ours}
        try:
            told["llama.cpp"] = by_llama(kind, prompts)
        except ImportError:
            print("  llama.cpp: missing (llama-cpp-python is not installed)")
        for name, found in told.items():
            same = [agreed(a, b) for a, b in zip(exact, found, strict=True)]
            print(
                f"  {name}: the first {mean(same):.0f} of {TOKENS} tokens as in float32 ({', '.join(map(str, same))})"
            )
