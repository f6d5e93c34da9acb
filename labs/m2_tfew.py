"""Paper 2.13 (T-Few, Liu et al., arXiv 2205.05638): (IA)³ learns from few questions with choices, by each of its losses.

From which of four books is a verse? 32 questions are learned, and the choice that is likeliest per character is judged on
verses that neither the base nor the tuning has read. L_LM alone, with unlikelihood, with the length-normalised loss, with both.
"""

from statistics import mean

from m1_parts import options, tell
from m2_parts import BOOKS, Rows, apart, around, bible, books, spread, trained, tune, verdict

import groundup as gu
from groundup.core import plots
from groundup.peft.ia3 import IA3

LOSSES = {
    "L_LM": {},
    "L_LM + L_UL": {"unlikelihood": 1.0},
    "L_LM + L_LN": {"length_normalised": 1.0},
    "all three": {"unlikelihood": 1.0, "length_normalised": 1.0},
}
SAME = gu.LoRA(rank=1, alpha=1, targets="attn.k attn.v mlp.down")  # on the linears that (IA)³ scales


def questions(rows: Rows) -> Rows:
    """The task of `books` with its four choices."""
    return [{"prompt": r["prompt"], "choices": list(BOOKS.values()), "answer": r["completion"].strip()} for r in rows]


def chosen(model: gu.Model, test: Rows) -> float:
    """The share of questions of which the right choice is taken."""
    return gu.evaluate(model, test, metrics=["acc_norm"]).scores[0].value


given = options(__file__, __doc__)
seeds, steps, held = (2, 5, 24) if given.quick else (3, 300, 400)
lm = bible(given)
train, test = map(questions, books(32, held))
untuned = chosen(lm, test)
found: dict[str, list[float]] = {}
seconds: dict[str, list[float]] = {}
for name, losses in LOSSES.items():
    for seed in range(seeds):
        one = tune(lm, IA3(), train, test, seed=seed, steps=steps, batch=8, learning_rate=1e-2, **losses)
        found.setdefault(name, []).append(chosen(one.model, test))
        seconds.setdefault(name, []).append(one.seconds)

numbers, lora = trained(lm, IA3()), trained(lm, SAME)
least = found["L_LM"]
claims = {
    f"(IA)³ trains fewer numbers than LoRA of rank 1 on the same linears ({numbers:,} and {lora:,})": numbers < lora,
    "L_LM alone is above the untuned model, with each seed": min(least) > untuned,
    **{
        f"{name} is above L_LM alone (two standard errors)": mean(scores) > mean(least) and apart(scores, least)
        for name, scores in found.items()
        if name != "L_LM"
    },
}
names = ["untuned", *LOSSES]
plots.panels(names, {"right choice": ([(untuned,) * 3, *map(around, found.values())], "{:.3f}".format),
                     "seconds": ([None, *map(around, seconds.values())], "{:.0f}".format)},
             given.out / "tfew.png", title=f"{len(train)} questions of four choices, learned by (IA)³")  # fmt: skip
lines = [("untuned", f"{untuned:.3f}", ""), *((n, spread(found[n]), f"{mean(seconds[n]):.0f}") for n in LOSSES)]
tell(given.out, (f"{len(test)} held-out questions", "right choice", "seconds"), lines,
     {"untuned": untuned, "right": found, "trained": {"ia3": numbers, "lora": lora}, "claims": claims})  # fmt: skip
verdict(claims)
