"""Tune an adapter on four rows, load it by its run's folder, and merge it into a model of its own."""

import sys
from pathlib import Path
from tempfile import mkdtemp

import groundup as gu

out = Path(sys.argv[1] if len(sys.argv) > 1 else mkdtemp()) / "run"
desks = {"Shares rose on Friday.": "business", "The cup final ended 2-1.": "sports"}
rows = [{"prompt": item, "completion": desk} for item, desk in desks.items()] + [
    {"prompt": "The minister resigned.", "completion": "politics"},
    {"prompt": "A new phone goes on sale.", "completion": "tech"},
]

lm = gu.load("smollm2-135m-instruct")
tuned = gu.adapt(lm, gu.LoRA(rank=4, alpha=8, targets="attn.q attn.v mlp.down"))
run = gu.finetune(tuned, rows, out=out, steps=12, batch=3, learning_rate=5e-3, precision="float32")
print(f"loss {run.first_loss:.2f} at the first step; best validation {run.best_loss:.2f} at step {run.best_step}")

again = gu.load(run.out)
print(again.notes[-1])
print(again.chat([{"role": "user", "content": "The cup final ended 2-1."}], max_tokens=4))
gu.save(gu.merge(again), out.parent / "merged")
print(gu.load(out.parent / "merged").chat([{"role": "user", "content": "Shares rose on Friday."}], max_tokens=4))
