"""A model from random weights: make rows, train a tokenizer and an encoder-decoder, ask it, and look without positions.

python examples/pretrain.py [FOLDER] [STEPS]
"""

import sys
from pathlib import Path

import groundup as gu
from groundup.data import numbers

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/numbers")
steps = int(sys.argv[2]) if len(sys.argv) > 2 else 1500
numbers.write(folder / "rows", tasks=["reverse"], longest=5)

recipe = {
    "family": "t5",
    "model": {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4},
    "tokenizer": {"kind": "word"},
    "data": str(folder / "rows"),
    "batch": 32,
    "learning_rate": 1e-3,
}
for name, without in (("with positions", []), ("without positions", ["bias.table"])):
    run = gu.pretrain({**recipe, "without": without}, out=folder / name, steps=steps)
    lm = gu.load(run.out)
    report = gu.evaluate(lm, folder / "rows", metrics=["exact-match"], max_tokens=8)
    print(f"{name}: validation loss {run.best_loss:.3f}, {report.score('exact match')}")
    print("   four one three ->", lm.generate("reverse: four one three", max_tokens=8))
