"""The starter in few bits against llama.cpp, which `pip install llama-cpp-python==0.3.36` builds (ten minutes): decoding one text and
eight, reading 512 tokens, the seconds from the file to the first token, and memory.

    python benchmarks/bench_kernels.py [--rounds 5]

Greedy, 128 tokens, two threads; both programs take the same files: the starter's own Q4_1, and Q8_0 and Q4_0 made of it by
llama.cpp. Differences of seconds leave the prompt out: T(128 tokens) - T(1 token).
"""

from __future__ import annotations

import ctypes
import time
from pathlib import Path

from side_by_side import compare

from groundup.checkpoints.starters import fetch
from groundup.core.files import cache_dir
from groundup.core.machine import peak_memory, processor

PROMPT = "The history of the printing press began when"
LONG = "The sea is a large body of salt water. Many people live by it, and more of them travel over it. " * 22
TOKENS = 128
KINDS = ("q4_1", "q8_0", "q4_0")


def file(kind: str) -> Path:
    """The starter's file in this kind of blocks."""
    shipped = fetch("smollm2-135m-instruct")
    if kind == "q4_1":
        return shipped
    made = cache_dir() / f"bench-{kind}.gguf"
    if not made.exists():
        import llama_cpp

        how = llama_cpp.llama_model_quantize_default_params()
        how.ftype = {"q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0, "q4_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0}[kind]
        how.allow_requantize, how.pure = True, False
        if llama_cpp.llama_model_quantize(str(shipped).encode(), str(made).encode(), ctypes.byref(how)):
            raise SystemExit(f"llama.cpp did not make {made}")
    return made


def figures(one, many, read, begin: float) -> dict[str, float]:
    """one(n), many(n): answers of n tokens for one text and for eight; read(): 512 tokens read."""
    one(1)
    out = {"load to first token, s": time.perf_counter() - begin}
    one(8)
    read()

    def spent(work, *n) -> float:
        start = time.perf_counter()
        work(*n)
        return time.perf_counter() - start

    single = min(spent(one, TOKENS) - spent(one, 1) for _ in range(3))
    eight = min(spent(many, TOKENS) - spent(many, 1) for _ in range(3))
    out["one text, tokens/s"] = (TOKENS - 1) / single
    out["eight texts, tokens/s"] = 8 * (TOKENS - 1) / eight
    out["read 512, tokens/s"] = 512 / min(spent(read) for _ in range(3))
    out["peak memory, MB"] = peak_memory() / 1e6
    return out


def ours(kind: str):
    def work() -> dict[str, float]:
        import torch

        import groundup as gu

        load = gu.load  # what it needs is imported when it is first named
        base = peak_memory()
        path = file(kind)
        begin = time.perf_counter()
        lm = load(path, dtype="int8")
        stops = torch.tensor(sorted(lm.stop_ids))
        how = {"temperature": 0, "filters": [lambda ids, logits, row: logits.index_fill_(0, stops, -1e9)]}
        long = lm.tokenizer.decode(lm.encode(LONG)[:511])
        found = figures(
            lambda n: lm.generate(PROMPT, max_tokens=n, **how),
            lambda n: lm.generate([PROMPT] * 8, max_tokens=n, **how),
            lambda: lm.generate(long, max_tokens=1, **how),
            begin,
        )
        return found | {"of which imports, MB": base / 1e6}

    return work


def rival(kind: str):
    def work() -> dict[str, float]:
        import llama_cpp as cpp
        import numpy as np

        silent = cpp.llama_log_callback(lambda *_: None)  # kept alive: it is called as long as the program runs
        cpp.llama_log_set(silent, ctypes.c_void_p(0))
        cpp.llama_backend_init()
        path = file(kind)
        begin = time.perf_counter()
        model = cpp.llama_model_load_from_file(str(path).encode(), cpp.llama_model_default_params())
        vocab = cpp.llama_model_get_vocab(model)
        size = cpp.llama_vocab_n_tokens(vocab)

        def opened(tokens: int, rows: int):
            settings = cpp.llama_context_default_params()
            settings.n_ctx, settings.n_batch, settings.n_ubatch, settings.n_seq_max = rows * tokens, 512, 512, rows
            settings.n_threads = settings.n_threads_batch = 2
            return cpp.llama_init_from_model(model, settings)

        single, many, reading = opened(256, 1), opened(256, 8), opened(640, 1)

        def encode(text: str) -> list[int]:
            room = (cpp.llama_token * 1024)()
            return list(room[: cpp.llama_tokenize(vocab, text.encode(), len(text.encode()), room, 1024, False, False)])

        batch = cpp.llama_batch_init(512, 0, 1)

        def call(context, rows: list[list[int]], at: int) -> list[int]:
            """The likeliest next token of each row."""
            batch.n_tokens = 0
            for row, ids in enumerate(rows):
                for i, token in enumerate(ids):
                    n = batch.n_tokens
                    batch.token[n], batch.pos[n], batch.n_seq_id[n], batch.seq_id[n][0] = token, at + i, 1, row
                    batch.logits[n] = i == len(ids) - 1
                    batch.n_tokens += 1
            assert cpp.llama_decode(context, batch) == 0
            ends = np.cumsum([len(ids) for ids in rows]) - 1
            return [
                int(np.ctypeslib.as_array(cpp.llama_get_logits_ith(context, int(e)), (size,)).argmax()) for e in ends
            ]

        def answer(count: int, n: int) -> None:
            context = single if count == 1 else many
            cpp.llama_memory_clear(cpp.llama_get_memory(context), False)
            ids = encode(PROMPT)
            rows = [ids] * count
            for i in range(n):
                rows = [[token] for token in call(context, rows, len(ids) + i - 1 if i else 0)]

        long = encode(LONG)[:512]

        def read() -> None:
            cpp.llama_memory_clear(cpp.llama_get_memory(reading), False)
            call(reading, [long], 0)

        return figures(lambda n: answer(1, n), lambda n: answer(8, n), read, begin) | {"of which imports, MB": 0.0}

    return work


if __name__ == "__main__":
    for kind in KINDS:
        compare(
            {f"llama.cpp {kind}": rival(kind), f"groundup {kind}": ours(kind)},
            rounds=5,
            title=f"The starter in {kind}",
            notes=processor(),
        )
