"""Paper 2.15, LOMO (Lv et al., arXiv 2306.09782): every weight is tuned, by steps taken within the backward pass.

AdamW holds a gradient and two moments beside each trained number: 16 bytes in all in float32. LOMO holds the number and, for
one weight at a time, its gradient. That it is plain SGD, and how many bytes of gradients it holds, is measured on a small
base; the peak of memory on SmolLM2-135M, each run in a process of its own. The paper measures a tenth of its baseline's memory.
"""

from copy import deepcopy

import torch
from m1_parts import count, options, tell
from m2_parts import bible, books, verdict, verses
from torch import nn

import groundup as gu
from groundup.core import plots
from groundup.data import rows
from groundup.data.encode import encode_all
from groundup.training.lomo import Lomo
from groundup.training.objective import causal_loss

given = options(__file__, __doc__)
lm = bible(given, "small")
batches = [encode_all(rows.read(books(64, 1)[0]), lm.words, 1000).rows[8 * i : 8 * i + 8] for i in range(5)]


def steps(kind: str, clip: float) -> tuple[nn.Module, int]:
    """The network after five steps, and the most bytes of gradients that were alive at once."""
    network, most = deepcopy(lm.network).requires_grad_(), 0
    weights = list(network.parameters())

    def look(_: torch.Tensor) -> None:
        nonlocal most
        most = max(most, sum(p.grad.nbytes for p in weights if p.grad is not None))

    for p in weights:
        p.register_post_accumulate_grad_hook(look)
    optimizer = Lomo(weights, clip=clip) if kind == "lomo" else torch.optim.SGD(weights, lr=0.1)
    for batch in batches:

        def loss(batch: list = batch) -> torch.Tensor:
            total, n = causal_loss(network, batch)
            return total / n

        if isinstance(optimizer, Lomo):
            optimizer.step(loss, 0.1)
            continue
        loss().backward()
        if clip:
            nn.utils.clip_grad_norm_(weights, clip)
        optimizer.step()
        optimizer.zero_grad()
    return network, most


def off(one: nn.Module, other: nn.Module) -> float:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max(float((a - b).detach().abs().max()) for a, b in pairs)


(lomo, held), (sgd, all_held) = steps("lomo", 0.0), steps("sgd", 0.0)
plain, clipped = off(lomo, sgd), off(steps("lomo", 0.5)[0], steps("sgd", 0.5)[0])
largest = max(p.nbytes for p in lm.network.parameters())

# --- the peak of memory; one step tells it, a few show that the loss falls
model = str(lm.origin.path) if given.quick else "smollm2-135m-instruct"
texts = [{"text": v["text"]} for v in verses()[0][:2000] if 80 < len(v["text"]) < 160][:40]
how = {"methods": [gu.Full()], "seeds": 1, "batch": 2, "precision": "float32", "save_every": 1e9, "steps": 8}
ways = {"AdamW": {"optimizer": "adamw", "learning_rate": 5e-5}, "LOMO": {"optimizer": "lomo", "learning_rate": 1e-2},
        "LOMO, unclipped": {"optimizer": "lomo", "learning_rate": 1e-3, "clip": 0.0}}  # fmt: skip
found = {
    name: gu.compare(model, texts, out=given.out / name.replace(", ", "-"), **how, **way) for name, way in ways.items()
}
runs = {name: compared.trials[1] for name, compared in found.items()}
untuned = found["AdamW"].untouched.scores[0]
numbers = count((lm if given.quick else gu.load(model)).network)
fell = {name: run.losses[0] for name, run in runs.items()}
share = runs["LOMO"].memory[0] / runs["AdamW"].memory[0]
claims = {
    "LOMO is SGD, to the bit": plain == 0,
    "clipped by the norm, it is clipped SGD to 1e-6": clipped <= 1e-6,
    "the gradients alive are those of the largest weight": held == largest,
    "LOMO's peak is at most half of AdamW's": share <= 0.5,
    "the loss falls by both": max(fell["AdamW"], fell["LOMO"]) < untuned,
}
plots.panels(list(runs),
             {"peak MiB": ([(m, m, m) for m in (r.memory[0] / 2**20 for r in runs.values())], "{:.0f}".format),
              "seconds a step": ([(s, s, s) for s in (r.seconds[0] / 8 for r in runs.values())], "{:.2f}".format)},
             given.out / "lomo.png", title=f"Full tuning of {numbers / 1e6:.0f} million numbers")  # fmt: skip
tell(given.out, (f"full tuning of {numbers:,} numbers", "peak MiB", "bytes a number", "seconds a step", "validation loss"),
     [("untuned", "", "", "", f"{untuned:.3f}"),
      *((n, f"{r.memory[0] / 2**20:.0f}", f"{r.memory[0] / numbers:.1f}", f"{r.seconds[0] / 8:.2f}", f"{fell[n]:.3f}")
        for n, r in runs.items())],
     {"numbers": numbers, "memory": {n: r.memory[0] for n, r in runs.items()}, "untuned": untuned, "loss": fell,
      "gradient bytes": [held, all_held, largest], "off": [plain, clipped], "share": share, "claims": claims})  # fmt: skip
print(f"bytes of gradients at once: LOMO {held:,} (the largest weight has {largest:,}), SGD {all_held:,}")
print(f"after five steps off SGD by {plain:.1g}, clipped by {clipped:.1g}; LOMO's peak is {share:.2f} of AdamW's")
verdict(claims)
