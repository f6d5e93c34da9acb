"""One epoch of LoRA r=16 on all linears of the starter over 500 news rows, against transformers + peft.

Both in float32, batches of 16 rows, the same rows, learning rate and number of updates. The rival pads to the longest
row of a batch, as its usual collator does. Peak memory is of the whole process.
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


def ours() -> dict[str, float]:
    import groundup as gu
    from groundup.peft.lora import trained
    from groundup.training.loop import Place, Trainer
    from groundup.training.settings import Settings

    given = rows()
    model = gu.adapt(gu.load("smollm2-135m-instruct"), gu.LoRA(rank=16, alpha=32, targets="all"))
    own = trained(model.network, "mine")
    for parameter in own.values():
        parameter.requires_grad_()
    settings = Settings(steps=-(-ROWS // BATCH), batch=BATCH, learning_rate=1e-4)
    run = Trainer(model.network, own, given, [], settings, out=Path(), adapter="mine", keep=lambda path: None)
    groups = run._groups(Place(0, 0))

    def epoch() -> None:
        for _ in range(settings.steps):
            run.update(next(groups)[0], 1e-4)

    return measured(epoch, sum(len(r.ids) for r in given))


def rival() -> dict[str, float]:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from groundup.checkpoints.starters import fetch

    given = rows()
    path = fetch("smollm2-135m-instruct")
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    names = ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "gate_proj", "down_proj"]
    model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules=names)).train()
    own = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(own, lr=1e-4)
    random.Random(0).shuffle(given)

    def epoch() -> None:
        for start in range(0, len(given), BATCH):
            batch = given[start : start + BATCH]
            longest = max(len(r.ids) for r in batch)
            ids = torch.full((len(batch), longest), 2)
            labels = torch.full((len(batch), longest), -100)
            seen = torch.zeros(len(batch), longest, dtype=torch.long)
            for i, r in enumerate(batch):
                n = len(r.ids)
                ids[i, :n], seen[i, :n] = torch.tensor(r.ids), 1
                labels[i, :n] = torch.where(torch.tensor(r.trained), torch.tensor(r.ids), -100)
            model(input_ids=ids, attention_mask=seen, labels=labels).loss.backward()
            torch.nn.utils.clip_grad_norm_(own, 1.0)
            optimizer.step()
            optimizer.zero_grad()

    return measured(epoch, sum(len(r.ids) for r in given))


if __name__ == "__main__":
    compare({"transformers + peft": rival, "groundup": ours}, rounds=1, title=str(__doc__))
