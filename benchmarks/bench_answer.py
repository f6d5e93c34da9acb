"""Greedy answers of the starter, against transformers: 128 tokens at batch 1, and a file of 64 prompts of mixed lengths.

`of the linears` is the share of the time that the linears alone would take, measured in the same process: no program
that calls PyTorch's linears can have more than 1.
"""

from __future__ import annotations

import time

import torch
import torch.nn.functional as F
from side_by_side import compare

PROMPT = "The history of the printing press began when"
SUBJECTS = ["the sea", "bridges and the people who built them over many long years", "tea", "an old clock"]
FILE = [f"Write about {SUBJECTS[i % 4]}" + ", and say why it matters" * (i % 7) + "." for i in range(64)]
FORMAT = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def linears(dtype: torch.dtype) -> float:
    """Seconds that the linears of one token take, weights from memory."""
    shapes = [(576, 576), (192, 576), (192, 576), (576, 576), (1536, 576), (1536, 576), (576, 1536)] * 30 + [
        (49152, 576)
    ]
    weights = [torch.randn(s).to(dtype) for s in shapes]
    inputs = {n: torch.randn(1, n).to(dtype) for n in (576, 1536)}
    best = float("inf")
    with torch.inference_mode():
        for _ in range(8):
            start = time.perf_counter()
            for w in weights:
                F.linear(inputs[w.shape[1]], w)
            best = min(best, time.perf_counter() - start)
    return best


def figures(once, many, dtype: torch.dtype) -> dict[str, float]:
    once(8)
    rates = []
    for _ in range(3):
        start = time.perf_counter()
        once(1)
        first = time.perf_counter() - start
        start = time.perf_counter()
        once(128)
        rates.append(127 / (time.perf_counter() - start - first))
    rate = sorted(rates)[1]
    out = {"batch 1, tokens a second": rate, "of the linears": rate * linears(dtype)}
    start = time.perf_counter()
    many()
    out["file, seconds"] = time.perf_counter() - start
    return out


def ours(kind: str):
    def work() -> dict[str, float]:
        import groundup as gu

        lm = gu.load("smollm2-135m-instruct", dtype=kind)
        never = {"filters": [lambda ids, logits, row: logits.index_fill(0, torch.tensor(sorted(lm.stop_ids)), -1e9)]}
        return figures(
            lambda n: lm.generate(PROMPT, max_tokens=n, temperature=0, **never),
            lambda: lm.generate(FILE, max_tokens=32, temperature=0),
            FORMAT[kind],
        )

    return work


def rival(kind: str):
    def work() -> dict[str, float]:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from groundup.checkpoints.starters import fetch

        path = fetch("smollm2-135m-instruct")
        tok = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name, padding_side="left")
        model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=FORMAT[kind]).eval()

        def say(texts: list[str], n: int, least: int) -> None:
            given = tok(texts, return_tensors="pt", padding=True)
            with torch.inference_mode():
                model.generate(**given, max_new_tokens=n, min_new_tokens=least, do_sample=False, pad_token_id=2)

        return figures(lambda n: say([PROMPT], n, n), lambda: say(FILE, 32, 0), FORMAT[kind])

    return work


if __name__ == "__main__":
    programs = {"transformers": rival("float32"), "groundup": ours("float32")}
    programs |= {"transformers bfloat16": rival("bfloat16"), "groundup bfloat16": ours("bfloat16")}
    compare(programs, rounds=3, title=str(__doc__))
