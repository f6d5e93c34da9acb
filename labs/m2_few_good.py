"""Papers 2.21 (LIMA, arXiv 2305.11206) and 2R.11 (AlpaGasus, arXiv 2307.08701): few good rows against many bad ones.

Of 500 news items four in five get the desk of some other item. A judge scores each row, and MiniLM, with a head for desks, is
tuned on all, on the best fifth, or on any fifth, for as many epochs: so a fifth takes a fifth of the time. Then 50 rows
without mistakes: 50 different ones, ten a desk, or two a desk, five times each. The judge is MiniLM as it comes: the cosine
of an item with the desk's name, less the mean over the desks. What it says on its own stands in the table, too.
"""

import json
from collections.abc import Sequence
from random import Random
from statistics import mean

from m1_parts import options, tell
from m2_parts import Rows, apart, around, spread, tune, verdict

import groundup as gu
from groundup.core import plots
from groundup.data import rows
from groundup.data.filters import by_score
from groundup.data.news import DESKS
from groundup.data.rows import Item
from groundup.data.texts import answered

given = options(__file__, __doc__)
many, held, seeds, epochs = (60, 20, 1, 1) if given.quick else (500, 100, 3, 4)
minilm = gu.load("all-minilm-l6-v2")
desks = minilm.embed(list(DESKS))


def news(part: str) -> Rows:
    """Openings and their desks."""
    found = rows.read("news", part=part).rows
    return [{"text": r["messages"][0]["content"].split("\n\n", 1)[1], "label": json.loads(answered(r))["desk"]}
            for r in found]  # fmt: skip


class Judge:
    """How well the desk of a row fits its text."""

    name, low = "fit", False

    def __call__(self, items: Sequence[Item]) -> list[float]:
        near = minilm.embed([item.record["text"] for item in items]) @ desks.T
        at = [DESKS.index(item.record["label"]) for item in items]
        return [float(row[i] - row.mean()) for row, i in zip(near, at, strict=True)]


train, test = news("train"), Random(0).sample(news("test"), held)
right: dict[str, list[float]] = {}
seconds: dict[str, list[float]] = {}
true: dict[str, list[float]] = {}
for seed in range(seeds):
    draw = Random(seed)
    clean = draw.sample(train, many)
    bad = set(draw.sample(range(many), many * 4 // 5))
    noisy = [{**row, "label": draw.choice(clean)["label"], "true": row["label"]} if i in bad else {**row, "true": row["label"]}
             for i, row in enumerate(clean)]  # fmt: skip
    best = given.out / f"best-{seed}.jsonl"
    best.unlink(missing_ok=True)
    print(by_score(noisy, best, scorer=Judge(), best=0.2).text(examples=0).splitlines()[0])
    each = [[row for row in clean if row["label"] == desk] for desk in DESKS]
    arms = {
        "all": (noisy, epochs),
        "the best fifth": ([json.loads(line) for line in best.open()], epochs),
        "any fifth": (draw.sample(noisy, many // 5), epochs),
        "50 clean, different": ([row for some in each for row in some[:10]], 2 * epochs),
        "50 clean, 10 repeated": ([row for some in each for row in some[:2]] * 5, 2 * epochs),
    }
    for name, (taught, times) in arms.items():
        seen = {row["label"] for row in taught}
        judged_by = [row for row in test if row["label"] in seen]  # its loss alone; the score below is over all
        one = tune(minilm, gu.Full(), taught, judged_by, seed=seed, epochs=times, learning_rate=2e-4)
        said = one.model.classify([row["text"] for row in test])
        hits = (next(iter(found)) == row["label"] for found, row in zip(said, test, strict=True))
        right.setdefault(name, []).append(mean(hits))
        seconds.setdefault(name, []).append(one.seconds)
        true.setdefault(name, []).append(mean(row["label"] == row.get("true", row["label"]) for row in taught))
judged = (minilm.embed([row["text"] for row in test]) @ desks.T).argmax(dim=1).tolist()
alone = mean(DESKS[i] == row["label"] for i, row in zip(judged, test, strict=True))

lines = [(name, f"{mean(true[name]):.2f}", spread(right[name]), f"{mean(seconds[name]):.0f}") for name in right]
plots.bars(["the right desk"], {name: [around(values)] for name, values in right.items()}, given.out / "right.png",
           title=f"MiniLM tuned on rows good and bad, {seeds} draws")  # fmt: skip
tell(given.out, ("tuned on", "true rows", "right", "seconds"), [*lines, ("the judge, untuned", "-", f"{alone:.3f}", "-")],
     {**right, "judge": alone})  # fmt: skip


def above(one: str, other: str) -> bool:
    """By more than two standard errors."""
    return mean(right[one]) > mean(right[other]) and apart(right[one], right[other])


verdict({
    "the best fifth is above all rows": above("the best fifth", "all"),
    "the best fifth is above any fifth: the score does it": above("the best fifth", "any fifth"),
    "it is above the judge itself": mean(right["the best fifth"]) > alone,
    f"50 clean different rows are above {many} noisy ones": above("50 clean, different", "all"),
    "50 different rows are above 10 repeated": above("50 clean, different", "50 clean, 10 repeated"),
})  # fmt: skip
