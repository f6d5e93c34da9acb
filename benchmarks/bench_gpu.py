"""On a GPU, beside transformers + peft: LoRA r=16 on all linears, answers to one prompt and to 64, in bfloat16.

A Llama of the starter's shape (135M) with random numbers and random rows of 64 to 256 tokens: only speed and memory are
compared. Needs no download.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from side_by_side import compare

SHAPE = {
    "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
    "num_key_value_heads": 3, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "tie_word_embeddings": True,
}  # fmt: skip
NAMES = ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "gate_proj", "down_proj"]
DRAW = random.Random(0)
ROWS = [[DRAW.randrange(3, 49152) for _ in range(DRAW.randint(64, 256))] for _ in range(256)]
PROMPTS = [row[: DRAW.randint(16, 64)] for row in ROWS[:64]]
BATCH, NEW = 16, 128


def timed(work: Callable[[], Any]) -> float:
    work()  # kernels are chosen and compiled
    torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def told(epoch: Callable[[], Any], one: Callable[[], Any], many: Callable[[], Any]) -> dict[str, float]:
    torch.cuda.reset_peak_memory_stats()
    tokens = sum(map(len, ROWS))
    seconds = timed(epoch)
    peak = torch.cuda.max_memory_allocated() / 2**30
    return {
        "tuned tokens a second": tokens / seconds,
        "peak of tuning, GiB": peak,
        "one prompt, tokens a second": NEW / timed(one),
        "64 prompts, tokens a second": 64 * NEW / timed(many),
    }


def ours() -> dict[str, float]:
    import groundup as gu
    from groundup.inference.decode import answer
    from groundup.inference.sampling import Sampling
    from groundup.inputs.tokenizer import Encoded
    from groundup.nn.surgery import in_format
    from groundup.training.loop import Place, Trainer
    from groundup.training.settings import Settings

    with torch.device("cpu"):
        base = gu.build(gu.models.llama.Config(**SHAPE), seed=0)
    method = gu.LoRA(rank=16, alpha=32, targets="all")
    model = gu.adapt(base, method)
    network = in_format(model.network, torch.bfloat16).to("cuda")
    own = method.trained(network, "mine")
    for parameter in own.values():
        parameter.requires_grad_()
    given = [Encoded(row, [True] * len(row)) for row in ROWS]
    settings = Settings(steps=len(ROWS) // BATCH, batch=BATCH, learning_rate=1e-4)
    run = Trainer(network, own, given, [], settings, out=Path(), adapter="mine", keep=lambda path: None, device="cuda")

    def epoch() -> None:
        groups = run.groups(Place(0, 0))
        for _ in range(settings.steps):
            run.update(next(groups)[0], 1e-4)

    def said(prompts: list[list[int]]) -> Callable[[], Any]:
        return lambda: answer(network, prompts, sampling=Sampling(NEW, temperature=0), batch=64)

    return told(epoch, said(PROMPTS[:1]), said(PROMPTS))


def rival() -> dict[str, float]:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **SHAPE), dtype=torch.bfloat16).to("cuda")
    model = get_peft_model(base, LoraConfig(r=16, lora_alpha=32, target_modules=NAMES))
    for p in model.parameters():
        if p.requires_grad:
            p.data = p.data.float()
    own = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(own, lr=1e-4, weight_decay=0.0)

    def padded(rows: list[list[int]], left: bool) -> tuple[torch.Tensor, torch.Tensor]:
        longest = max(map(len, rows))
        ids, seen = torch.full((len(rows), longest), 2), torch.zeros(len(rows), longest, dtype=torch.long)
        for i, row in enumerate(rows):
            at = slice(longest - len(row), None) if left else slice(0, len(row))
            ids[i, at], seen[i, at] = torch.tensor(row), 1
        return ids.cuda(), seen.cuda()

    def epoch() -> None:
        model.train()
        for start in range(0, len(ROWS), BATCH):
            ids, seen = padded(ROWS[start : start + BATCH], left=False)
            with torch.autocast("cuda", torch.bfloat16):
                loss = model(input_ids=ids, attention_mask=seen, labels=ids.masked_fill(seen == 0, -100)).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(own, 1.0)
            optimizer.step()
            optimizer.zero_grad()

    def said(prompts: list[list[int]]) -> Callable[[], Any]:
        def work() -> None:
            model.eval()
            ids, seen = padded(prompts, left=True)
            with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16):
                model.generate(
                    input_ids=ids, attention_mask=seen, max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False,
                    pad_token_id=2,
                )  # fmt: skip

        return work

    return told(epoch, said(PROMPTS[:1]), said(PROMPTS))


if __name__ == "__main__":
    if torch.cuda.is_available():
        compare({"transformers + peft": rival, "groundup": ours}, rounds=1, title=str(__doc__))
    else:
        print(f"{__doc__}\nmissing: there is no GPU here")
