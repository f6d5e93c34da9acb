"""Paper 2.3 (in-context learning, hard prompts): news desks from no, one and four examples in the prompt, no weight changed.

The chat starter of 135 million weights is told the five desks and answers with one word; examples stand as turns before the
question (`gu.data.incontext`, `groundup data shots`). An answer that is no desk at all is wrong. So each is asked twice: freely, and with every answer bound to the five desks (a JSON
schema), which gives the form away and leaves what the examples teach of the task.
"""

import json
from random import Random
from statistics import mean

from m1_parts import options, tell
from m2_parts import verdict

import groundup as gu
from groundup.core import plots
from groundup.data import rows
from groundup.data.incontext import shots
from groundup.data.news import DESKS
from groundup.data.texts import answered
from groundup.evaluation.baselines import majority
from groundup.evaluation.metrics import Score, difference, measure

INSTRUCTION = f"File each news item under one desk. Answer with one word: {', '.join(DESKS[:-1])} or {DESKS[-1]}."
given = options(__file__, __doc__)
most, shown = (6, (0, 1)) if given.quick else (100, (0, 1, 4))


def items(part: str) -> list[dict[str, str]]:
    """Openings and their desks."""
    found = rows.read("news", part=part).rows
    return [{"prompt": r["messages"][0]["content"].split("\n\n", 1)[1], "completion": json.loads(answered(r))["desk"]}
            for r in found]  # fmt: skip


lm = gu.load("smollm2-135m-instruct")
train, test = items("train"), items("test")
Random(0).shuffle(test)
test = test[:most]
right = [row["completion"] for row in test]
quoted = [{**row, "completion": f'"{row["completion"]}"'} for row in train]  # as JSON, to which an answer can be bound
said: dict[str, list[str]] = {}
for k, seed, bound in [(k, 0, False) for k in shown] + [(shown[-1], 1, False)] + [(k, 0, True) for k in (0, shown[-1])]:
    asked = shots(test, quoted if bound else train, k, instruction=INSTRUCTION, seed=seed)
    how = {"schema": {"type": "string", "enum": list(DESKS)}} if bound else {}
    told = lm.answer([row["prompt"] for row in asked], batch=20, temperature=0, max_tokens=8, **how)
    name = f"{k} shots" + (", others" if seed else "") + (", bound to the desks" if bound else "")
    said[name] = [t.strip(' ."').lower() for t in told]
said["the commonest desk"] = majority([row["completion"] for row in train], most)
scores = {name: measure("exact-match", answers, right) for name, answers in said.items()}
form = {name: mean(answer in DESKS for answer in answers) for name, answers in said.items()}
kinds = {"free": "", "free, other examples": ", others", "bound to the desks": ", bound to the desks"}
drawn = {kind: [scores.get(f"{k} shots{end}") for k in shown] for kind, end in kinds.items()}
plots.bars([f"{k} examples" for k in shown], {kind: [s and (s.value, s.low, s.high) for s in some] for kind, some in drawn.items()},
           given.out / "right.png", title=f"{most} news items, a model of 135 million weights: the right desk")  # fmt: skip
tell(given.out, ("in the prompt", "right desk", "a desk at all"), [(n, s, f"{form[n]:.2f}") for n, s in scores.items()],
     {name: {"right": s.value, "form": form[name]} for name, s in scores.items()})  # fmt: skip


def gain(after: str, before: str) -> Score:
    """How many more items are right, item by item."""
    found = difference(scores[before], scores[after])
    print(f"{after} against {before}: {found}")
    return found


last, bound = f"{shown[-1]} shots", ", bound to the desks"
free, form_given = gain(last, "0 shots"), gain(last + bound, "0 shots" + bound)
verdict({
    f"{shown[-1]} examples help (the interval lies above 0)": free.low > 0,
    "they help where the form is given, too": form_given.low > 0,
    "a model of this size gains little (below 0.1)": free.value < 0.1,
    "a model of this size gains little (below 0.1) where the form is given": form_given.value < 0.1,
    "with them it is above the commonest desk": scores[last].low > scores["the commonest desk"].value,
})  # fmt: skip
