"""Paper 2R.7 (Z. Jiang et al., "Low-Resource" Text Classification, Findings of ACL 2023): gzip and two nearest neighbours.

The paper finds a file packer above tuned networks where rows are few. Its count takes a row as right when either of two tied
neighbours is, which is being right twice; both counts stand here. Rivals learn from the very same rows: counted words with
logistic regression (LR), MiniLM's vectors with logistic regression, and MiniLM tuned with a head for labels (first draw alone).
"""

import json
from pathlib import Path
from random import Random
from statistics import mean
from tempfile import TemporaryDirectory

from m1_parts import options, tell
from m2_parts import apart, around, spread, verdict
from sklearn.linear_model import LogisticRegression

import groundup as gu
from groundup.core import plots
from groundup.data import rows
from groundup.data.texts import answered, asked
from groundup.evaluation.baselines import packed_neighbours, tfidf

Pairs = list[tuple[str, str]]
given = options(__file__, __doc__)
draws, sizes, most, steps = (1, (5,), 20, 2) if given.quick else (3, (5, 100), 200, 40)
minilm = gu.load("all-minilm-l6-v2")


def news(part: str) -> Pairs:
    """(opening, desk) of the news items."""
    found = rows.read("news", part=part).rows
    return [(r["messages"][0]["content"].split("\n\n", 1)[1], json.loads(answered(r))["desk"]) for r in found]


def tweets() -> tuple[Pairs, Pairs]:
    """(text, sentiment) to learn from and to be asked; equal tweets stand on one side."""
    train, test = rows.split(rows.read("tweets"), count=4000, seed=0)
    return [(asked(r), answered(r)) for r in train.rows], [(asked(r), answered(r)) for r in test.rows]


def some(found: Pairs, each: int, random: Random) -> Pairs:
    """So many rows of every label, drawn."""
    names = sorted({label for _, label in found})
    return [row for name in names for row in random.sample([r for r in found if r[1] == name], each)]


def tuned(known: Pairs, unseen: list[str]) -> list[str]:
    """What MiniLM says, all of it tuned with a head for the labels."""
    with TemporaryDirectory() as folder:
        taught = [{"text": text, "label": label} for text, label in known]
        run = gu.finetune(gu.adapt(minilm, gu.Full()), taught, out=Path(folder) / "run", steps=steps, learning_rate=2e-4,
                          precision="float32", validate_every=steps)  # fmt: skip
        return [next(iter(one)) for one in gu.load(run.out).classify(unseen)]


def says(known: Pairs, unseen: list[str], first: bool) -> dict[str, list[list[str]]]:
    """What each way answers: one label a text, or several that are tied."""
    texts, labels = map(list, zip(*known, strict=True))
    voted = packed_neighbours(texts, labels, unseen)
    vectors, asked_of = (minilm.embed(some, truncate=True).numpy() for some in (texts, unseen))
    near = LogisticRegression(C=10.0, max_iter=1000).fit(vectors, labels).predict(asked_of)
    one = {"gzip": [tied[0] for tied in voted], "TF-IDF + LR": tfidf(texts, labels, unseen), "MiniLM + LR": near}
    one |= {"MiniLM tuned": tuned(known, unseen)} if first else {}
    return {"gzip, ties right": voted, **{name: [[str(a)] for a in answers] for name, answers in one.items()}}


found: dict[str, dict[str, list[float]]] = {}
for task, (train, test) in {"news": (news("train"), news("test")), "tweets": tweets()}.items():
    held = Random(0).sample(test, min(most, len(test)))
    for each in sizes:
        scores = found.setdefault(f"{task}, {each} a label", {})
        for draw in range(draws):
            said = says(some(train, each, Random(draw)), [text for text, _ in held], first=draw == 0)
            for name, answers in said.items():
                scores.setdefault(name, []).append(mean(t in a for a, (_, t) in zip(answers, held, strict=True)))

names = ["gzip, ties right", "gzip", "TF-IDF + LR", "MiniLM + LR", "MiniLM tuned"]
lines = [(setting, *(spread(scores[name]) for name in names)) for setting, scores in found.items()]
plots.bars(list(found), {n: [around(s[n]) for s in found.values()] for n in names}, given.out / "gzip.png",
           title="Right: a packer against its rivals")  # fmt: skip
tell(given.out, ("rows", *names), lines, found)


def above(one: str, other: str) -> list[bool]:
    """In which settings `one` is above by more than two standard errors."""
    return [mean(s[one]) > mean(s[other]) and apart(s[one], s[other]) for s in found.values()]


few = [scores for setting, scores in found.items() if ", 5 " in setting]
verdict({
    "counting ties as right makes gzip better in every setting": all(above("gzip, ties right", "gzip")),
    "gzip, honestly counted, is above counted words in any setting": any(above("gzip", "TF-IDF + LR")),
    "with 5 rows a label gzip, ties right, is above the tuned network, as printed":
        all(mean(s["gzip, ties right"]) > s["MiniLM tuned"][0] for s in few),
    "with 5 rows a label gzip, honestly counted, is above the tuned network":
        all(mean(s["gzip"]) > s["MiniLM tuned"][0] for s in few),
})  # fmt: skip
