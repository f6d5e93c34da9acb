"""Paper 2R.5 (Continual Pre-training of Language Models, arXiv 2302.03241): one domain after the other, and what is forgotten.

A reader of the Bible goes on with sayings about computers, then with sayings about the law. Plainly; with replay, where every
second row is one of an earlier domain (`gu.data.mixture`), at twice the updates; and with a LoRA a domain on the one base,
where one has to know which domain is asked for. The paper's own way, gradients masked by each unit's importance and a contrast
of old and new states, is left out here: it needs no old rows, and neither do the adapters.
"""

from statistics import mean

import torch
from m1_parts import options, tell
from m2_parts import Rows, apart, around, bible, perplexity, spread, tune, verdict, verses, write

import groundup as gu
from groundup.core import plots
from groundup.data import rows
from groundup.data.mixture import mix

WORDS = "And God said, Let there be light"
given = options(__file__, __doc__)
seeds, epochs, few = (1, 0.2, 10) if given.quick else (3, 4, 200)
lm = bible(given)


def sayings(topic: str, held: int) -> tuple[Rows, Rows]:
    """Texts of a topic to learn from, and some held out; equal ones stand on one side."""
    found = [i.record["text"] for i in rows.Stream("fortunes").good() if i.record["topic"] == topic]
    parts = rows.split(rows.read([{"text": text} for text in found if len(text) < 400]), count=held)
    return parts[0].rows, parts[1].rows


domains = {"Bible": tuple([{"text": verse["text"]} for verse in part] for part in verses()),
           "computers": sayings("computers", 150), "law": sayings("law", 40)}  # fmt: skip
files = {name: write(given.out / f"{name}.jsonl", part[0]) for name, part in domains.items()}
ORDER = ("computers", "law")


def surprise(model: gu.Model, domain: str) -> float:
    return perplexity(model, domains[domain][1][:few])


def learn(model: gu.Model, domain: str, taught: Rows, seed: int, *, lora: bool = False) -> gu.Model:
    method, rate = (gu.LoRA(targets="all"), 3e-3) if lora else (gu.Full(), 1e-3)
    return tune(model, method, taught, domains[domain][1], seed=seed, epochs=epochs, learning_rate=rate).model


def replayed(domain: str, seed: int) -> Rows:
    """As many rows of earlier domains as of this one."""
    earlier = list(files)[: list(files).index(domain)]
    out = given.out / f"{domain}-{seed}-mixed.jsonl"
    out.unlink(missing_ok=True)
    weights = {files[domain]: len(earlier), **{files[name]: 1 for name in earlier}}
    mix(weights, out, rows=2 * len(domains[domain][0]), seed=seed)
    return rows.read(out).rows


before = {name: surprise(lm, name) for name in domains}
end: dict[str, dict[str, list[float]]] = {}
fresh: dict[str, list[float]] = {}  # of computers, when just learned
off = []
for seed in range(seeds):
    for way in ("plain", "replay", "LoRA a domain"):
        model, after = lm, dict[str, float]()
        for domain in ORDER:
            lora = way.startswith("LoRA")
            taught = replayed(domain, seed) if way == "replay" else domains[domain][0]
            model = learn(lm if lora else model, domain, taught, seed, lora=lora)
            after[domain] = surprise(model, domain)
            if domain == ORDER[0]:
                fresh.setdefault(way, []).append(after[domain])
            if lora:
                off.append(torch.equal(model.using(None).logits(WORDS), lm.logits(WORDS)))
        after = {"Bible": before["Bible"], **after} if lora else {name: surprise(model, name) for name in domains}
        for name, value in after.items():
            end.setdefault(way, {}).setdefault(name, []).append(value)

lines = [("the base", *(f"{before[name]:.1f}" for name in domains), "")]
lines += [(way, *(spread(some[name], 1) for name in domains), spread(fresh[way], 1)) for way, some in end.items()]
columns = {name: ([(before[name], before[name], before[name]), *(around(some[name]) for some in end.values())],
                  lambda value: f"{value:.0f}") for name in domains}  # fmt: skip
plots.panels(
    ["the base", *end], columns, given.out / "domains.png", title="Perplexity on held-out rows after all domains"
)
tell(given.out, ("perplexity at the end", *domains, "computers, just learned"), lines,
     {"base": before, "end": end, "computers, just learned": fresh})  # fmt: skip


def above(one: str, other: str, domain: str) -> bool:
    """By more than two standard errors."""
    return mean(end[one][domain]) > mean(end[other][domain]) and apart(end[one][domain], end[other][domain])


plain, replay, adapters = (end[way] for way in end)
verdict({
    "plain training forgets the Bible (perplexity at least 1.5 times the base's)": mean(plain["Bible"]) > 1.5 * before["Bible"],
    "it forgets computers when it learns the law": mean(plain["computers"]) > mean(fresh["plain"])
        and apart(plain["computers"], fresh["plain"]),
    "replay forgets less of both": all(above("plain", "replay", name) for name in ("Bible", "computers")),
    "replay learns the law as well (within a tenth)": mean(replay["law"]) < 1.1 * mean(plain["law"]),
    "a LoRA learns each domain as well (within a tenth)":
        mean(adapters["computers"]) < 1.1 * mean(fresh["plain"]) and mean(adapters["law"]) < 1.1 * mean(plain["law"]),
    "with the LoRA off the base is back, bit for bit": all(off),
})  # fmt: skip
