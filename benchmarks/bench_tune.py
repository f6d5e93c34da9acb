"""One epoch of LoRA r=16 on all linears of the starter over 500 news rows, against transformers + peft.

In float32 and in bfloat16 (frozen weights and activations; the rival with autocast), batches of 16 rows, the same rows,
learning rate and number of updates. The rival pads to the longest row of a batch, as its usual collator does. Peak
memory is of the whole process.
"""

from __future__ import annotations

import random
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from side_by_side import compare

ROWS, BATCH = 500, 16
NAMES = ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "gate_proj", "down_proj"]


def rows(most: int = ROWS) -> list:
    from groundup.api import load
    from groundup.data import encode, news
    from groundup.data import rows as reading

    folder = Path(tempfile.mkdtemp())
    news.make(folder)
    tokenizer = load("smollm2-135m-instruct").tokenizer
    return [encode.encode(r, tokenizer) for r in reading.read(folder / "train.jsonl").rows[:most]]


def measured(work, tokens: int) -> dict[str, float]:
    start = time.perf_counter()
    work()
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"seconds": seconds, "tokens a second": tokens / seconds, "peak memory, GiB": peak}


def ours(kind: str, method: Callable[[], Any] | None = None, *, most: int = ROWS, **settings: Any):
    """One epoch by a method (LoRA of rank 16 where none is given); `settings` as of a run."""

    def work() -> dict[str, float]:
        import groundup as gu
        from groundup.nn.surgery import in_format
        from groundup.training.loop import Place, Trainer
        from groundup.training.settings import Settings

        given = rows(most)
        chosen = method() if method else gu.LoRA(rank=16, alpha=32, targets="all")
        model = gu.adapt(gu.load("smollm2-135m-instruct"), chosen)
        network = in_format(model.network, getattr(torch, kind))
        own = chosen.trained(network, "mine")
        for parameter in own.values():
            parameter.requires_grad_()
        how = Settings(**{"steps": -(-most // BATCH), "batch": BATCH, "learning_rate": 1e-4, **settings})
        run = Trainer(network, own, given, [], how, out=Path(), adapter="mine", keep=lambda path: None)
        groups = run.groups(Place(0, 0))

        def epoch() -> None:
            for _ in range(how.steps):
                run.update(next(groups)[0], 1e-4)

        return measured(epoch, sum(len(r.ids) for r in given))

    return work


def lora() -> Any:
    from peft import LoraConfig

    return LoraConfig(r=16, lora_alpha=32, target_modules=NAMES)


class Rival:
    """transformers + peft on the starter; `update` takes a batch of encoded rows.

    method: what gives peft's config, LoRA of rank 16 where it is left out; None trains the whole model by transformers alone.
    """

    def __init__(self, kind: str, rate: float, method: Callable[[], Any] | None = lora):
        from peft import get_peft_model
        from transformers import AutoModelForCausalLM

        from groundup.checkpoints.starters import fetch

        path = fetch("smollm2-135m-instruct")
        model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=getattr(torch, kind))
        self.model = (get_peft_model(model, method()) if method else model).train()
        self.own = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.own, lr=rate, weight_decay=0.0)
        self.low = kind == "bfloat16"

    def update(self, batch: list) -> float:
        longest = max(len(r.ids) for r in batch)
        ids = torch.full((len(batch), longest), 2)
        labels = torch.full((len(batch), longest), -100)
        seen = torch.zeros(len(batch), longest, dtype=torch.long)
        for i, r in enumerate(batch):
            n = len(r.ids)
            ids[i, :n], seen[i, :n] = torch.tensor(r.ids), 1
            labels[i, :n] = torch.where(torch.tensor(r.trained), torch.tensor(r.ids), -100)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.low):
            loss = self.model(input_ids=ids, attention_mask=seen, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.own, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(loss)


def rival(kind: str, method: Callable[[], Any] | None = lora, *, most: int = ROWS):
    def work() -> dict[str, float]:
        given = rows(most)
        tuner = Rival(kind, 1e-4, method)
        random.Random(0).shuffle(given)

        def epoch() -> None:
            for start in range(0, len(given), BATCH):
                tuner.update(given[start : start + BATCH])

        return measured(epoch, sum(len(r.ids) for r in given))

    return work


if __name__ == "__main__":
    programs = {"transformers + peft": rival("float32"), "groundup": ours("float32")}
    programs |= {"transformers + peft bf16": rival("bfloat16"), "groundup bf16": ours("bfloat16")}
    compare(programs, rounds=1, title=str(__doc__))
