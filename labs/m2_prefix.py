"""Paper 2.10, prefix tuning (Li & Liang, arXiv 2101.00190), beside prompt tuning on the same rows: few of them, and more.

Claims: keys and values at every layer do more than vectors before the input, above all with few rows; training through an
MLP is steadier than training them as they are; and the MLP can be thrown away afterwards, for the logits stay. The task is the
paper's, in small: a table of attributes becomes a sentence, whose order and whose verb are to be found.
"""

from pathlib import Path
from random import Random
from statistics import mean, stdev
from tempfile import TemporaryDirectory

from m1_parts import options, tell
from m2_parts import apart, around, bible, right, spread, tune, verdict

import groundup as gu
from groundup.core import plots

METHODS = {
    "prompt": (gu.Prompt(length=10), 3e-1),
    "prefix": (gu.PrefixTuning(length=10), 1e-1),
    "prefix by an MLP": (gu.PrefixTuning(length=10, hidden=64), 1e-2),
    "full": (gu.Full(), 1e-3),
}
NAMES = ("Aaron", "Miriam", "Jacob", "Leah", "Joseph", "Rachel", "Samuel", "Ruth", "Daniel", "Esther")
THINGS = ("bread", "wine", "oil", "sheep", "corn", "gold", "silver", "water", "honey", "wood")
PLACES = ("river", "mountain", "gate", "city", "field", "temple", "house", "sea", "wall", "desert")


def sentences(count: int) -> list[dict[str, str]]:
    """Different tables with their sentences; the wealth decides the verb, and the place comes first."""
    found = []
    for n in Random(0).sample(range(2000), count):
        name, thing, place, rich = NAMES[n % 10], THINGS[n // 10 % 10], PLACES[n // 100 % 10], n >= 1000
        asked = f"name {name}, thing {thing}, place {place}, rich {'yes' if rich else 'no'}:"
        said = f" By the {place} {name} {'gives' if rich else 'asks for'} {thing}."
        found.append({"prompt": asked, "completion": said})
    return found


def folded(model: gu.Model) -> float:
    """How far the logits move, as a share of their size, when a prefix that an MLP makes is saved without it."""
    with TemporaryDirectory() as folder:
        kept = gu.load(model.origin.path, adapter=gu.save(model, Path(folder) / "folded"))
        before, after = (m.logits("In the beginning") for m in (model, kept))
    return float((before - after).abs().max() / before.abs().max())


given = options(__file__, __doc__)
counts, seeds, steps, few = ((20,), 2, 6, 20) if given.quick else ((20, 100, 500), 3, 150, 150)
lm = bible(given)
rows = sentences(few + 800)
moved = folded(gu.adapt(lm, METHODS["prefix by an MLP"][0]))
test = rows[:few]
loss: dict[str, list[list[float]]] = {name: [] for name in METHODS}
score: dict[str, list[list[float]]] = {name: [] for name in METHODS}
for name, (method, rate) in METHODS.items():
    for number in counts:
        done = [tune(lm, method, rows[few : few + number], test, seed=seed, steps=steps, learning_rate=rate)
                for seed in range(seeds)]  # fmt: skip
        loss[name].append([one.loss for one in done])
        score[name].append([right(one.model, test, 30) for one in done])

direct, mlp, prompt = loss["prefix"], loss["prefix by an MLP"], loss["prompt"]
above = [mean(p) - mean(d) for p, d in zip(prompt, direct, strict=True)]
claims = {
    "prefix beats prompt at every number of rows, by two standard errors": all(
        apart(p, d) and mean(p) > mean(d) for p, d in zip(prompt, direct, strict=True)
    ),
    "its lead is widest with the fewest rows": above[0] == max(above),
    "through an MLP the seeds spread less": mean(map(stdev, mlp)) < mean(map(stdev, direct)),
    "through an MLP the loss is lower": all(mean(m) < mean(d) for m, d in zip(mlp, direct, strict=True)),
    "folded, the logits move by at most 1e-5 of their size": moved <= 1e-5,
}
shown = [f"{name}, {number}" for name in METHODS for number in counts]
flat = {"test loss (nats a token)": loss, "sentence right": score}
plots.panels(shown, {name: ([around(v) for each in found.values() for v in each], "{:.2f}".format) for name, found in flat.items()},
             given.out / "prefix.png", title="From a table to a sentence, by the number of rows")  # fmt: skip
tell(given.out, ("", "rows", "test loss", "sentence right"),
     [(name, number, spread(loss[name][i]), spread(score[name][i])) for i, number in enumerate(counts) for name in METHODS],
     {"rows": counts, "loss": loss, "right": score, "moved": moved, "claims": claims})  # fmt: skip
print(f"folded: logits moved by {moved:.1e} of their size")
verdict(claims)
