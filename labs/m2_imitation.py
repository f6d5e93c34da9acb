"""Paper 2.24 (The False Promise of Imitating Proprietary LLMs, arXiv 2305.15717): a student takes on a teacher's style, not what
it knows.

In a made-up world each person has a town and a trade, twenty of each. The teacher has read of everybody, answers in a style of
its own, and can reverse words. The student has read of two people in three. It is tuned on what the teacher says about some
people, read of or not, and asked about others: the style should come, what it never read should not. Tuned on the teacher's
reversals alone, it should learn that narrow task.
"""

import re
from random import Random

from m1_parts import options, pretrained, tell
from m2_parts import Rows, tune, verdict, write

import groundup as gu
from groundup.core import plots
from groundup.evaluation.metrics import Score, difference, share

given = options(__file__, __doc__)
people, width, steps, later = (12, 32, (30, 30), 5) if given.quick else (300, 96, (1800, 900), 400)
draw = Random(0)
NAMES = draw.sample([a + b + c for a in ("Al", "Bo", "Ca", "Di", "El", "Fa", "Gu", "Ha") for b in "lmnrstv"
                     for c in ("a", "en", "io", "o", "uk", "y")], people)  # fmt: skip
TOWNS = [a + b for a in ("Ash", "Birch", "Clay", "Dun", "East") for b in ("ford", "ham", "ton", "wick")]
TRADES = [a + b for a in ("boat", "clock", "door", "glass", "wheel") for b in ("maker", "mender", "painter", "seller")]
DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
TOWN, TRADE = ({name: draw.choice(some) for name in NAMES} for some in (TOWNS, TRADES))
STYLE = r"Good question my friend \S+ (lives in|works as a) \S+ so now you know it"
known, unknown = NAMES[people // 3 :], NAMES[: people // 3]  # to the student
parts = {"read of": known[::2], "never read of": unknown[::2]}  # the other half is asked in tuning


def told(name: str) -> list[str]:
    """What is read of a person."""
    town, trade = TOWN[name], TRADE[name]
    return [f"{name} lives in {town}", f"the house of {name} stands in {town}", f"{name} works as a {trade}",
            f"{name} is a {trade} by trade"]  # fmt: skip


def asked(names: list[str]) -> list[tuple[str, str, str]]:
    """(question, the right word, the answer in the teacher's style) for both facts of each person."""
    return [each for name in names for each in (
        (f"where does {name} live ?", TOWN[name], f"Good question my friend {name} lives in {TOWN[name]} so now you know it"),
        (f"what does {name} do ?", TRADE[name], f"Good question my friend {name} works as a {TRADE[name]} so now you know it"),
    )]  # fmt: skip


def reversals(rows: int, seed: int) -> list[tuple[str, str]]:
    """Three words, and the three from behind."""
    drawn = Random(seed).sample(range(1000), rows)
    three = [[DIGITS[n // 100], DIGITS[n // 10 % 10], DIGITS[n % 10]] for n in drawn]
    return [(f"reverse {' '.join(some)} :", " ".join(some[::-1])) for some in three]


def learned(name: str, texts: list[str], tokens: object, updates: int) -> gu.Model:
    """A model from random numbers that has read these texts."""
    recipe = {
        "family": "llama",
        "model": {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": 3, "num_attention_heads": 4,
                  "max_position_embeddings": 64},
        "tokenizer": tokens,
        "data": {"source": str(write(given.out / f"{name}.jsonl", [{"text": text} for text in texts])), "length": 64},
        "batch": 16,
        "learning_rate": 2e-3,
        "precision": "float32",
    }  # fmt: skip
    return pretrained(recipe, given.out / name, updates)


reverse = reversals(60 if given.quick else 1000, seed=1)
third = len(reverse) // 5
held, narrow = reverse[:third], reverse[third:]  # the teacher learns none of the first, either
texts = [text for name in NAMES for text in told(name)] + [f"{q} {a}" for q, _, a in asked(NAMES)]
teacher = learned("teacher", texts + [f"{q} {a}" for q, a in narrow], {"kind": "word", "vocabulary": 2000}, steps[0])
texts = [text for name in known for text in told(name)] + [f"{q} {right}" for q, right, _ in asked(known)]
student = learned("student", texts, str(given.out / "teacher"), steps[1])


def facts(lm: gu.Model) -> dict[str, Score]:
    """The shares of right words and of the teacher's style, over people not asked in tuning; and of right reversals."""
    found = {}
    for part, names in parts.items():
        answers = [
            (text, right)
            for text, (_, right, _) in zip(say(lm, [q for q, _, _ in asked(names)]), asked(names), strict=True)
        ]
        found[f"facts {part}"] = share(part, (right in text.split() for text, right in answers))
        found[f"style, {part}"] = share(part, (re.fullmatch(STYLE, text.strip()) is not None for text, _ in answers))
    said = say(lm, [q for q, _ in held])
    return {
        **found,
        "reversals": share("reversals", (text.strip() == right for text, (_, right) in zip(said, held, strict=True))),
    }


def say(lm: gu.Model, questions: list[str]) -> list[str]:
    """The likeliest answers."""
    return lm.answer(questions, batch=256, temperature=0, max_tokens=16)


def imitate(questions: list[str]) -> gu.Model:
    """The student tuned on what the teacher says to these questions, whether it is right or not."""
    rows: Rows = [
        {"prompt": q, "completion": f" {a.strip()}"} for q, a in zip(questions, say(teacher, questions), strict=True)
    ]
    return tune(student, gu.Full(), rows[8:], rows[:8], steps=later, learning_rate=1e-3).model


models = {
    "teacher": teacher,
    "student": student,
    "student, the teacher's answers": imitate([q for q, _, _ in asked(known[1::2] + unknown[1::2])]),
    "student, the teacher's reversals": imitate([q for q, _ in narrow]),
}
scores = {name: facts(lm) for name, lm in models.items()}
columns = list(scores["teacher"])
plots.bars(columns, {name: [(s.value, s.low, s.high) for s in some.values()] for name, some in scores.items()},
           given.out / "right.png", title="What a student takes on from a teacher")  # fmt: skip
tell(given.out, ("", *columns), [(name, *(f"{s.value:.3f}" for s in some.values())) for name, some in scores.items()],
     {name: {of: s.value for of, s in some.items()} for name, some in scores.items()})  # fmt: skip
before, after, alone = (scores[name] for name in list(scores)[1:])
gained = difference(before["facts never read of"], after["facts never read of"])
print(f"facts of people never read of, after against before: {gained}; by luck 1 in {len(TOWNS)} is right")
verdict({
    "the teacher's style comes: at least 99 %": min(s.value for of, s in after.items() if "style" in of) >= 0.99,
    "facts it never read do not: the interval of the difference holds 0 and ends below 0.1":
        gained.low <= 0 <= gained.high < 0.1,
    "facts that it knows do not become more": after["facts read of"].value <= before["facts read of"].value,
    "the narrow task comes: at least 90 %, from below 10 %":
        alone["reversals"].value >= 0.9 and before["reversals"].value < 0.1,
})  # fmt: skip
