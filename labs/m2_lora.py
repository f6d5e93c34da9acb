"""Paper 2.12, LoRA (Hu et al., arXiv 2106.09685): nothing changes at step 0, merging is exact, and the rank hardly matters.

Ranks from 1 to 64 learn from which book a verse is, beside full tuning, three seeds each. alpha / rank stays 2, so that the
rates of all ranks mean the same.
"""

from collections import Counter
from statistics import mean

import torch
from m1_parts import options, tell
from m2_parts import apart, around, bible, books, right, spread, trained, tune, verdict

import groundup as gu
from groundup.core import plots

WORDS = "In the beginning God created"


def lora(rank: int) -> gu.LoRA:
    return gu.LoRA(rank=rank, alpha=2 * rank, targets="all")


def moved(one: gu.Model, other: gu.Model) -> float:
    """How far the logits of two models lie apart, as a share of their size."""
    before, after = one.logits(WORDS), other.logits(WORDS)
    return float((before - after).abs().max() / before.abs().max())


given = options(__file__, __doc__)
ranks, seeds, steps, few = ((1, 8), 2, 6, 20) if given.quick else ((1, 2, 4, 8, 64), 3, 200, 250)
lm = bible(given)
train, test = books(800, few)
commonest = Counter(row["completion"] for row in test).most_common(1)[0][1] / len(test)
methods = {f"rank {rank}": lora(rank) for rank in ranks} | {"full": gu.Full()}
fresh = torch.equal(gu.adapt(lm, lora(8)).logits(WORDS), lm.logits(WORDS))

score: dict[str, list[float]] = {}
loss: dict[str, list[float]] = {}
merged = []
for name, method in methods.items():
    for seed in range(seeds):
        rate = 1e-3 if name == "full" else 3e-3
        one = tune(lm, method, train, test, seed=seed, steps=steps, learning_rate=rate)
        score.setdefault(name, []).append(right(one.model, test))
        loss.setdefault(name, []).append(one.loss)
        if name != "full":
            merged.append(moved(one.model, gu.merge(one.model)))

named = [name for name in methods if name != "full"]
worst, best = sorted(named, key=lambda name: mean(score[name]))[:: len(named) - 1]
claims = {
    "at step 0 the logits are the base's, bit for bit": fresh,
    "merged, the logits move by at most 1e-5 of their size": max(merged) <= 1e-5,
    "the ranks are within 0.03 of each other in right answers": mean(score[best]) - mean(score[worst]) <= 0.03,
    f"the best and the worst ({best}, {worst}) are within the noise": not apart(score[best], score[worst]),
    f"the worst ({worst}) is within the noise of full tuning": not apart(score[worst], score["full"]),
}
plots.panels(list(methods),
             {"right": ([around(s) for s in score.values()], "{:.3f}".format),
              "test loss (nats)": ([around(s) for s in loss.values()], "{:.3f}".format),
              "trained numbers": ([(n, n, n) for n in (trained(lm, m) for m in methods.values())], "{:,.0f}".format)},
             given.out / "ranks.png", title=f"The rank of LoRA, {seeds} seeds; always the commonest is {commonest:.2f}")  # fmt: skip
tell(given.out, (f"{len(train)} verses, {len(test)} to test", "right", "test loss", "trained"),
     [(n, spread(score[n]), spread(loss[n]), f"{trained(lm, m):,}") for n, m in methods.items()],
     {"right": score, "loss": loss, "merged": max(merged), "commonest": commonest, "claims": claims})  # fmt: skip
print(f"merged: logits moved by at most {max(merged):.1e} of their size")
verdict(claims)
