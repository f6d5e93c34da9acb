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
from pathlib import Path

import torch
from side_by_side import compare

ROWS, BATCH = 500, 16
NAMES = ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "gate_proj", "down_proj"]


def rows() -> list:
    from groundup.api import load
    from groundup.data import encode, news
    from groundup.data import rows as reading

    folder = Path(tempfile.mkdtemp())
    news.make(folder)
    tokenizer = load("smollm2-135m-instruct").tokenizer
    return [encode.encode(r, tokenizer) for r in reading.read(folder / "train.jsonl").rows[:ROWS]]


def measured(work, tokens: int) -> dict[str, float]:
    start = time.perf_counter()
    work()
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"seconds": seconds, "tokens a second": tokens / seconds, "peak memory, GiB": peak}


def ours(kind: str):
    def work() -> dict[str, float]:
        import groundup as gu
        from groundup.peft.method import of_adapter
        from groundup.peft.surgery import in_format
        from groundup.training.loop import Place, Trainer
        from groundup.training.settings import Settings

        given = rows()
        model = gu.adapt(gu.load("smollm2-135m-instruct"), gu.LoRA(rank=16, alpha=32, targets="all"))
        network = in_format(model.network, getattr(torch, kind))
        own = of_adapter(network, "mine")
        for parameter in own.values():
            parameter.requires_grad_()
        settings = Settings(steps=-(-ROWS // BATCH), batch=BATCH, learning_rate=1e-4)
        run = Trainer(network, own, given, [], settings, out=Path(), adapter="mine", keep=lambda path: None)
        groups = run.groups(Place(0, 0))

        def epoch() -> None:
            for _ in range(settings.steps):
                run.update(next(groups)[0], 1e-4)

        return measured(epoch, sum(len(r.ids) for r in given))

    return work


class Rival:
    """transformers + peft with LoRA on the starter; `update` takes a batch of encoded rows."""

    def __init__(self, kind: str, rate: float):
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM

        from groundup.checkpoints.starters import fetch

        path = fetch("smollm2-135m-instruct")
        model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=getattr(torch, kind))
        self.model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules=NAMES)).train()
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


def rival(kind: str):
    def work() -> dict[str, float]:
        given = rows()
        tuner = Rival(kind, 1e-4)
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
