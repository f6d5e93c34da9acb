"""Paper 2.7, mixtures of soft prompts (Qin & Eisner, arXiv 2104.06599): many prompts that ask together know more than one.

A tiny reader of the Bible is taught the facts of a small world (who of its people lives where, and does what) in several
wordings. Then, with the network frozen, what is asked in a wording of our own, by the best single prompt, or by a mixture of as
many vectors; prompts learn from some of the people and are asked about the others. The paper's masked models and its
corpora of relations are far larger; here it is the same question in small.
"""

from pathlib import Path
from random import Random
from statistics import mean
from tempfile import TemporaryDirectory

from m1_parts import options, tell
from m2_parts import apart, around, bible, spread, verdict

import groundup as gu
from groundup.core import plots

PLACES = ("river", "mountain", "gate", "city", "field", "temple", "house", "sea", "wall", "desert")
WORK = ("king", "priest", "servant", "shepherd", "prophet", "captain", "scribe", "judge")
TOLD = {"place": ("{} dwelt by the {}.", "now {} was of the {}.", "they found {} in the {}."),
        "work": ("{} was a {}.", "and {} became {}.", "they made {} their {}.")}  # fmt: skip
ASKED = {"place": "Where is {}? In the", "work": "What is {}? A"}
VALUES = {"place": PLACES, "work": WORK}


def people(count: int, seed: int) -> list[tuple[str, dict[str, str]]]:
    dice = Random(seed)
    first, last = (
        ("Ab", "El", "Jo", "Mi", "Na", "Ru", "Sha", "Tob", "Zi", "Har"),
        ("dan", "iel", "mah", "ra", "sur", "thi", "nok", "bel"),
    )
    names = [a + b for a in first for b in last]
    return [
        (name, {kind: dice.choice(values) for kind, values in VALUES.items()}) for name in dice.sample(names, count)
    ]


def questions(some: list[tuple[str, dict[str, str]]], kind: str, words: str) -> list[dict]:
    return [{"prompt": words.format(name), "choices": list(VALUES[kind]), "answer": VALUES[kind].index(facts[kind])}
            for name, facts in some]  # fmt: skip


def right(model: gu.Model, rows: list[dict]) -> float:
    return next(s.value for s in gu.evaluate(model, rows).scores if s.name == "acc")


def learned(
    model: gu.Model, method: gu.Prompt | gu.PromptMixture | gu.Full, rows: list[dict], seed: int, **how
) -> gu.Model:
    with TemporaryDirectory() as folder:
        run = gu.finetune(gu.adapt(model, method, seed=seed), rows, out=Path(folder) / "run", seed=seed, batch=16,
                          precision="float32", save_every=1e9, **how)  # fmt: skip
        if method.whole:
            kept = given.out / "knows"
            return gu.load(kept if kept.exists() else gu.save(gu.load(run.best), kept))
        return gu.load(model.origin.path, adapter=run.best)


given = options(__file__, __doc__)
seeds, steps, read = (1, 6, 20) if given.quick else (3, 200, 1500)
known = people(60, seed=0)
told = [
    {"text": words.format(name, facts[kind])}
    for name, facts in known
    for kind, all_words in TOLD.items()
    for words in all_words
]
lm = learned(bible(given), gu.Full(), told, 0, steps=read, learning_rate=1e-3)
METHODS = {
    "one of 4": gu.Prompt(length=4),
    "one of 16": gu.Prompt(length=16),
    "4 of 4, mixed": gu.PromptMixture(count=4, length=4),
}
score: dict[str, list[float]] = {"a question": [], "a wording that was read": []} | {name: [] for name in METHODS}
for kind in TOLD:
    train, test = known[:30], known[30:]
    score["a question"].append(right(lm, questions(test, kind, ASKED[kind])))
    read_words = [words.split("{}.")[0].strip() for words in TOLD[kind]]
    score["a wording that was read"].append(max(right(lm, questions(test, kind, words)) for words in read_words))
    rows = [{"prompt": ASKED[kind].format(name), "completion": f" {facts[kind]}"} for name, facts in train]
    for name, method in METHODS.items():
        for seed in range(seeds):
            one = learned(lm, method, rows, seed, steps=steps, learning_rate=1e-1)
            score[name].append(right(one, questions(test, kind, ASKED[kind])))
claims = {
    "a mixture is above the question as we word it": mean(score["4 of 4, mixed"]) > mean(score["a question"]),
    "a mixture is above one prompt of as many vectors (two standard errors)": apart(score["4 of 4, mixed"], score["one of 16"])
    and mean(score["4 of 4, mixed"]) > mean(score["one of 16"]),
    "a mixture is above one prompt of its prompts' length (two standard errors)": apart(score["4 of 4, mixed"], score["one of 4"])
    and mean(score["4 of 4, mixed"]) > mean(score["one of 4"]),
}  # fmt: skip
plots.panels(list(score), {"right, of people not asked about before": ([around(s) for s in score.values()], "{:.2f}".format)},
             given.out / "mixture.png", title="Facts of a small world, asked in different ways")  # fmt: skip
tell(given.out, ("", "right"), [(name, spread(s) if len(s) > 1 else f"{s[0]:.3f}") for name, s in score.items()],
     {"right": score, "claims": claims})  # fmt: skip
verdict(claims)
