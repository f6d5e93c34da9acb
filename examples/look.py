"""Look inside two real models: what each layer would say next, which token looks at which, where words lie."""

import sys
from pathlib import Path
from tempfile import mkdtemp

import groundup as gu
from groundup.interpret import look, pictures, tables, vectors

out = Path(sys.argv[1] if len(sys.argv) > 1 else mkdtemp())

lm = gu.load("smollm2-135m-instruct")
seen = look.logit_lens(lm, "The capital of France is")
for layer, words, rank in zip(seen.layers, seen.words, seen.rank, strict=True):
    print(f"{layer:10} {words[-1][0]!r:16} the model's own choice stands at {int(rank[-1])}")
pictures.lens(seen, out / "lens.png")

maps = look.attention(lm, "The cat sat on the mat because it was tired")
pictures.attention(maps, out / "heads.png")  # all layers and heads
pictures.attention([maps[10]], out / "head.png", head=0)  # one head, token by token

groups = {"animals": "cat dog horse cow", "food": "bread cheese apple rice", "vehicles": "car train bicycle truck"}
names = [name for name, words in groups.items() for _ in words.split()]
minilm = gu.load("all-minilm-l6-v2")
found = vectors.embedding_map(minilm, " ".join(groups.values()).split(), names)
print(f"silhouette of the groups: {found.silhouette:.2f}")
pictures.embedding_map(found, out / "map.png")

for near in vectors.nearest_words(vectors.table_of(lm)[lm.encode(" king")], lm, top=4):
    print("next to ' king':", ", ".join(f"{word!r} {cosine:.2f}" for word, cosine in near.cosine))

pictures.positions(tables.positions("sinusoidal", 64, width=48)[0], out / "positions.png")
pictures.mask(tables.mask("window", [6, 10], window=4), out / "mask.png")
print("pictures in", out)
