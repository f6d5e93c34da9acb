"""Paper 1.1 (Attention Is All You Need, arXiv 1706.03762): the first Transformer reverses number words.

As in the paper: norms on the sums, ReLU, one table for both halves and the head, label smoothing 0.1, Adam with beta2 0.98.
Positions are learned ones, which the paper finds as good as waves, since those can be taken away: without them the encoder
reads a bag of words, and nothing can be reversed but by luck. The paper's rate, which falls with the root of the step, never
comes near 0; so few steps end better with a cosine that does. Both are measured.
"""

import json

from m1_parts import count, options, pretrained, tell

import groundup as gu
from groundup.core import plots
from groundup.data import numbers
from groundup.evaluation.metrics import share

given = options(__file__, __doc__)
width, layers, longest, steps = (48, 1, 4, 150) if given.quick else (96, 2, 8, 2000)
if not (given.out / "rows").exists():
    size = {"train": 4000, "test": 60} if given.quick else {}
    numbers.write(given.out / "rows", tasks=["reverse"], longest=longest, **size)
test = [json.loads(line) for line in (given.out / "rows" / "test.jsonl").open()]
lengths = [len(row["completion"].split()) for row in test]
recipe = {
    "family": "transformer",
    "model": {"d_model": width, "num_heads": 4, "d_ff": 4 * width, "encoder_layers": layers, "decoder_layers": layers,
              "positions": 32},
    "tokenizer": {"kind": "word", "vocabulary": 100},
    "data": str(given.out / "rows"),
    "batch": 64,
    "label_smoothing": 0.1,
    "beta2": 0.98,
    "precision": "float32",
}  # fmt: skip
cosine = {"schedule": "cosine", "learning_rate": 2e-3}
paper = {"schedule": "inverse-sqrt", "learning_rate": (width * 0.1 * steps) ** -0.5, "warmup": 0.1}  # equation 3
ways = {
    "with positions": cosine,
    "the paper's rate": paper,
    "without positions": {**cosine, "without": ["embed.positions"]},
}
sizes, bars, lines, facts = sorted(set(lengths)), {}, [], {}
for name, way in ways.items():
    lm = pretrained({**recipe, **way}, given.out / name.replace("'", "").replace(" ", "-"), steps)
    report = gu.evaluate(lm, test, metrics=["exact-match"], max_tokens=longest + 2, batch=128)
    score = report.score("exact match")
    each = [share(f"{size} words", (hit > 0 for hit, n in zip(score.values, lengths, strict=True) if n == size))
            for size in sizes]  # fmt: skip
    bars[name] = [(s.value, s.low, s.high) for s in each]
    lines.append((name, f"{count(lm.network):,}", score, report.rows[0]["prediction"]))
    facts[name] = score.value
plots.bars(
    [f"{n} words" for n in sizes], bars, given.out / "right.png", title="Reversed without a mistake, 95 % intervals"
)
tell(given.out, ("", "numbers", "exact match", test[0]["prompt"]), lines, facts)
for claim, holds in {
    "at least 99 % with positions": facts["with positions"] >= 0.99,
    "at least 99 % at the paper's rate": facts["the paper's rate"] >= 0.99,
    "below 15 % without positions (luck gives about 3)": facts["without positions"] < 0.15,
}.items():
    print(f"{'holds' if holds else 'FAILS'}: {claim}")
