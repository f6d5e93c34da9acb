"""Lecture 2.4: the course's table of methods, on one task: which book of four is this verse from?

The lecture skips selective methods such as BitFit as working poorly; here that is measured. Scores are of three seeds, each
method with the better of two rates that were tried on one seed beforehand. The peak of memory comes from
`gu.compare`, which gives every run a process of its own.
"""

from collections import Counter
from statistics import mean

from m1_parts import count, options, tell
from m2_parts import apart, around, bible, books, right, spread, trained, tune, verdict

import groundup as gu
from groundup.core import plots
from groundup.core.files import size

METHODS = {
    "full": (gu.Full(), 1e-3),
    "last block": (gu.Freeze(layers=1), 3e-3),
    "BitFit": (gu.BitFit(), 3e-2),
    "LoRA": (gu.LoRA(targets="all"), 3e-3),
    "IA3": (gu.IA3(), 1e-1),
    "bottleneck": (gu.Bottleneck(), 3e-3),
    "prefix": (gu.PrefixTuning(length=8), 1e-1),
    "prompt": (gu.Prompt(length=8, init="vocabulary"), 3e-1),
    "LLaMA-Adapter": (gu.LlamaAdapter(length=8), 5e-2),
}
SORTS = {"selective": ("last block", "BitFit"), "additive": ("bottleneck", "prefix", "prompt", "LLaMA-Adapter"),
         "re-parameterised": ("LoRA",), "scaling": ("IA3",)}  # fmt: skip

given = options(__file__, __doc__)
seeds, steps, some = (1, 6, 40) if given.quick else (3, 200, 800)
lm = bible(given)
train, test = books(some, 20 if given.quick else 250)
commonest = Counter(row["completion"] for row in test).most_common(1)[0][1] / len(test)

score: dict[str, list[float]] = {}
loss: dict[str, list[float]] = {}
seconds: dict[str, list[float]] = {}
for name, (method, rate) in METHODS.items():
    for seed in range(seeds):
        one = tune(lm, method, train, test, seed=seed, steps=steps, learning_rate=rate)
        score.setdefault(name, []).append(right(one.model, test))
        loss.setdefault(name, []).append(one.loss)
        seconds.setdefault(name, []).append(one.seconds / steps)
costs = gu.compare(lm.origin.path, train, methods=[m for m, _ in METHODS.values()], seeds=1, steps=4, batch=16,
                   precision="float32", out=given.out / "memory").trials[1:]  # fmt: skip

sort = {name: kind for kind, names in SORTS.items() for name in names}
whole = count(lm.network)
lines = [(name, sort.get(name, "all"), spread(score[name]), spread(loss[name]), f"{trained(lm, m):,}",
          f"{trained(lm, m) / whole:.2%}", f"{mean(seconds[name]) * 1000:.0f}", f"{c.memory[0] / 2**20:.0f}", size(c.size or 0))
         for (name, (m, _)), c in zip(METHODS.items(), costs, strict=True)]  # fmt: skip
peft = [name for name in METHODS if name not in ("full", "last block")]
claims = {
    "BitFit works poorly: its loss is above LoRA's, by two standard errors": apart(loss["BitFit"], loss["LoRA"])
    and mean(loss["BitFit"]) > mean(loss["LoRA"]),
    "some method of at most a tenth of the numbers is as right as full tuning": any(
        trained(lm, METHODS[n][0]) <= whole / 10
        and (mean(score[n]) >= mean(score["full"]) or not apart(score[n], score["full"]))
        for n in peft
    ),
    "the prompt is the weakest": max(peft, key=lambda n: mean(loss[n])) == "prompt",
}
plots.panels(list(METHODS),
             {"right": ([around(s) for s in score.values()], "{:.3f}".format),
              "test loss (nats)": ([around(s) for s in loss.values()], "{:.2f}".format),
              "trained numbers": ([(n, n, n) for n in (trained(lm, m) for m, _ in METHODS.values())], "{:,.0f}".format),
              "ms a step": ([(n, n, n) for n in (mean(s) * 1000 for s in seconds.values())], "{:.0f}".format)},
             given.out / "methods.png", title=f"Methods on one task, {seeds} seeds; always the commonest is {commonest:.2f}")  # fmt: skip
tell(given.out, (f"{len(train)} verses, {len(test)} to test", "sort", "right", "test loss", "trained", "share", "ms a step",
                 "peak MiB", "file"),
     lines, {"commonest": commonest, "right": score, "loss": loss, "claims": claims,
             "seconds": seconds,
             "memory": {n: c.memory[0] for n, c in zip(METHODS, costs, strict=True)}})  # fmt: skip
print(f"always the commonest book: {commonest:.3f}; peak MiB: of the whole process, most of it PyTorch itself")
verdict(claims)
