"""Paper 2.5 (Goat, arXiv 2305.14201): digits as tokens, and steps written down, make arithmetic learnable.

Tiny networks begin with random numbers. Sums of three-digit numbers are learned where each digit is a token, and where a
tokenizer (BPE) merges digits as they happen to come, one to three at a time. Products of two-digit numbers are learned with
Goat's steps and as the answer alone. Every step comes checked from `gu.data.arithmetic`; no question of the test is learned.
"""

from random import Random

from m1_parts import options, pretrained, tell
from m2_parts import verdict, write

from groundup.core import plots
from groundup.data.arithmetic import Problem, solve, verify
from groundup.evaluation.metrics import measure

given = options(__file__, __doc__)
test, width, layers = (20, 32, 1) if given.quick else (500, 96, 3)


def problems(task: str, low: int, high: int, rows: int) -> list[Problem]:
    """Different questions with both numbers from low to high - 1, each step checked."""
    wide = high - low
    found = [solve(task, low + n // wide, low + n % wide) for n in Random(0).sample(range(wide * wide), rows)]
    for problem in found:
        verify(problem)
    return found


def row(problem: Problem, chain: bool) -> dict[str, str]:
    """The question up to its sign of equality, and what follows; without spaces, which BPE would join to digits."""
    said = problem.output.removeprefix(f"{problem.question} = ") if chain else problem.answer
    return {"prompt": f"{problem.question} =".replace(" ", ""), "completion": said.replace(" ", "")}


sums = problems("add", 100, 1000, 320 if given.quick else 40_500)
products = problems("multiply", 10, 100, 320 if given.quick else 6_500)
cases = {  # problems, tokens, whether steps are written, updates
    "sums, digits": (sums, "character", False, 2000),
    "sums, merged digits": (sums, "bpe", False, 2000),
    "products, steps": (products, "character", True, 2400),
    "products, answer alone": (products, "character", False, 2400),
}
scores, lines = {}, []
for name, (found, kind, chain, steps) in cases.items():
    rows, folder = [row(problem, chain) for problem in found], given.out / name.replace(", ", "-").replace(" ", "-")
    recipe = {
        "family": "llama",
        "model": {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers,
                  "num_attention_heads": 4, "max_position_embeddings": 128},
        "tokenizer": {"kind": kind, "vocabulary": 1000},
        "data": {"source": str(write(folder / "train.jsonl", rows[:-test])),
                 "validation": str(write(folder / "test.jsonl", rows[-test:]))},
        "batch": 32,
        "learning_rate": 2e-3,
        "precision": "float32",
    }  # fmt: skip
    lm = pretrained(recipe, folder / "run", steps=20 if given.quick else steps)
    said = lm.answer([r["prompt"] for r in rows[-test:]], batch=256, temperature=0, max_tokens=80)
    ends = [text.rpartition("=")[2] for text in said]
    scores[name] = measure("exact-match", ends, [problem.answer for problem in found[-test:]])
    shown = " ".join(lm.pieces(lm.encode(rows[-1]["prompt"])))
    lines.append((name, scores[name], f"{lm.words.vocab_size:,}", shown, said[-1]))
plots.bars(["right"], {name: [(s.value, s.low, s.high)] for name, s in scores.items()}, given.out / "right.png",
           title=f"{test} questions that were not learned, 95 % intervals")  # fmt: skip
tell(given.out, ("", "right", "tokens", "asked", "said"), lines, {name: s.value for name, s in scores.items()})
verdict({
    "sums of digits: at least 99 % right": scores["sums, digits"].value >= 0.99,
    "digits are far (0.2) above merged ones": scores["sums, digits"].low > scores["sums, merged digits"].high + 0.2,
    "steps are far (0.2) above the answer alone":
        scores["products, steps"].low > scores["products, answer alone"].high + 0.2,
})  # fmt: skip
