"""Paper 2.6, prompt tuning (Lester et al., arXiv 2104.08691): how it begins, how long it is, and how large the base is.

The paper finds that the gap to full tuning narrows as models grow, and that more than 20 vectors give little; the lab's notes
see no difference between random vectors and a text. These bases are a thousand times smaller than the paper's smallest, where
its prompts are weakest; what is measured is the test loss. The larger base is trained first, in about 4 minutes.
"""

from math import log
from statistics import mean

from m1_parts import count, options, tell
from m2_parts import apart, around, bible, books, perplexity, right, spread, trained, tune, verdict

import groundup as gu
from groundup.core import plots

TEXT = "From which book of the Bible is this verse?"
STARTS = {"random": {}, "vocabulary": {"init": "vocabulary"}, "text": {"init": "text", "text": TEXT}}

given = options(__file__, __doc__)
steps, some = (6, 20) if given.quick else (150, 250)
sizes = ("small",) if given.quick else ("small", "middle", "large")
lengths = (1, 16) if given.quick else (1, 4, 16, 64)
bases = {size: bible(given, size) for size in sizes}
train, test = books(800, some)
loss: dict[str, list[float]] = {}
score: dict[str, list[float]] = {}


def learn(name: str, size: str, method: gu.Prompt | gu.Full, seeds: int, rate: float = 0.3) -> None:
    for seed in range(len(loss.get(name, ())), 2 if given.quick else seeds):
        one = tune(bases[size], method, train, test, seed=seed, steps=steps, learning_rate=rate)
        loss.setdefault(name, []).append(one.loss)
        score.setdefault(name, []).append(right(one.model, test))


usual = sizes[-2:][0]
for start, how in STARTS.items():
    learn(f"16 vectors, {start}", usual, gu.Prompt(length=16, **how), 5)
for length in lengths:
    learn(f"{length} vectors, random", usual, gu.Prompt(length=length), 3)
for size in sizes:
    learn(f"{size}: prompt of 16", size, gu.Prompt(length=16), 2)
    learn(f"{size}: full", size, gu.Full(), 2, rate=1e-3)

start = {size: log(perplexity(lm, test)) for size, lm in bases.items()}
gap = [mean(loss[f"{size}: prompt of 16"]) - mean(loss[f"{size}: full"]) for size in sizes]
by = {length: mean(loss[f"{length} vectors, random"]) for length in lengths}
longest, shortest = lengths[-1], lengths[0]
claims = {
    "the gap to full tuning narrows with every larger base": gap == sorted(gap, reverse=True),
    "from 16 to 64 vectors the loss falls by less than a quarter of what it fell from 1 to 16": by[16] - by[longest]
    < (by[shortest] - by[16]) / 4,
    "a text and random vectors end alike (two standard errors)": not apart(loss["16 vectors, text"], loss["16 vectors, random"]),
}  # fmt: skip
plots.panels(list(loss), {"test loss (nats a token)": ([around(v) for v in loss.values()], "{:.2f}".format),
                          "right": ([around(v) for v in score.values()], "{:.2f}".format)},
             given.out / "prompts.png", title="Prompt tuning: start, length, base")  # fmt: skip
tell(given.out, (f"{len(train)} verses, {len(test)} to test, {steps} steps", "test loss", "right", "seeds"),
     [(n, spread(loss[n]), spread(score[n]), len(loss[n])) for n in loss],
     {"loss": loss, "right": score, "untuned": start, "gap": gap, "claims": claims})  # fmt: skip
for size, one in zip(sizes, gap, strict=True):
    numbers, few = count(bases[size].network), trained(bases[size], gu.Prompt(length=16))
    print(f"{size}: {few:,} of {numbers:,} numbers; untuned loss {start[size]:.3f}; prompt above full by {one:.3f}")
verdict(claims)
