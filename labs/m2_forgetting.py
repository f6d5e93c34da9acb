"""Lecture 2.1, 2.2: a reader of the Bible learns the topics of fortunes, in four ways. What does each cost the Bible?

All weights, the last block, the head alone, or LoRA. Scores are of three seeds, with a rate set by hand for a base of this size;
the peak of memory comes from `gu.compare`, which gives every run a process of its own. With the adapter off, the base is back.
"""

from collections import Counter
from statistics import mean

import torch
from m1_parts import count, options, tell
from m2_parts import apart, around, bible, perplexity, right, spread, trained, tune, verdict, verses

import groundup as gu
from groundup.core import plots
from groundup.data import rows
from groundup.data.parts import divide

TOPICS, WORDS = ("computers", "definitions", "politics", "songs-poems"), "And God said, Let there be light"
METHODS = {
    "full": (gu.Full(), 1e-3),
    "last block": (gu.Freeze(layers=1), 1e-3),
    "head": (gu.Freeze(layers=0), 3e-3),
    "LoRA": (gu.LoRA(targets="all"), 3e-3),
}

given = options(__file__, __doc__)
seeds, steps, few = (1, 6, 20) if given.quick else (3, 250, 300)
lm = bible(given)
items = [i for i in rows.Stream("fortunes").good() if i.record["topic"] in TOPICS and len(i.record["text"]) < 250]
parts = divide(items, test=few, seed=0)
train, test = ([{"prompt": f"{items[i].record['text']}\nTopic:", "completion": f" {items[i].record['topic']}"}
                for i in parts[part]] for part in ("train", "test"))  # fmt: skip
held = [{"text": verse["text"]} for verse in verses()[1][:few]]
before = perplexity(lm, held)
commonest = Counter(row["completion"] for row in test).most_common(1)[0][1] / len(test)

score: dict[str, list[float]] = {}
after: dict[str, list[float]] = {}
seconds: dict[str, list[float]] = {}
back = []
for name, (method, rate) in METHODS.items():
    for seed in range(seeds):
        run = tune(lm, method, train, test, seed=seed, steps=steps, learning_rate=rate)
        one = run.model
        seconds.setdefault(name, []).append(run.seconds / steps)
        score.setdefault(name, []).append(right(one, test))
        after.setdefault(name, []).append(perplexity(one, held))
        if not method.whole:
            off = one.using(None)
            back.append(torch.equal(off.logits(WORDS), lm.logits(WORDS)) and perplexity(off, held) == before)
costs = gu.compare(lm.origin.path, train, methods=[m for m, _ in METHODS.values()], seeds=1, out=given.out / "memory", steps=4,
                   batch=16, precision="float32").trials[1:]  # fmt: skip

whole, others = count(lm.network), [name for name in METHODS if name != "full"]
lines = [("untuned", f"{right(lm, test):.3f}", f"{before:.1f}", "", "", "")]
lines += [(name, spread(score[name]), spread(after[name], 1), f"{trained(lm, m) / whole:.1%}",
           f"{mean(seconds[name]) * 1000:.0f} ms", f"{cost.memory[0] / 2**20:.0f} MiB")
          for (name, (m, _)), cost in zip(METHODS.items(), costs, strict=True)]  # fmt: skip
claims = {
    "no way beats full tuning (by two standard errors)": not any(
        apart(score[name], score["full"]) and mean(score[name]) > mean(score["full"]) for name in others
    ),
    "full tuning forgets most": all(apart(after["full"], after[n]) and mean(after[n]) < mean(after["full"]) for n in others),
    "LoRA forgets less than full tuning": apart(after["full"], after["LoRA"]) and mean(after["LoRA"]) < mean(after["full"]),
    "with LoRA off the base is back, bit for bit": all(back),
}  # fmt: skip
flat = (before, before, before)
plots.panels(["untuned", *METHODS],
             {"right topics": ([(right(lm, test),) * 3, *map(around, score.values())], "{:.3f}".format),
              "the Bible's perplexity": ([flat, *map(around, after.values())], "{:.1f}".format)},
             given.out / "forgetting.png", title="A reader of the Bible learns the topics of fortunes")  # fmt: skip
tell(given.out, (f"{len(train)} rows, {len(test)} to test", "right topic", "Bible's perplexity", "trained", "a step", "peak memory"),
     lines, {"commonest": commonest, "before": before, "right": score, "after": after, "claims": claims,
             "seconds": seconds, "memory": [c.memory for c in costs]})  # fmt: skip
print(f"the commonest topic alone: {commonest:.3f}")
verdict(claims)
