"""Lab 1.9: the missing word, by a tiny BERT that learned from the King James Bible, and by one that learned nothing.

A word of held-out verses is masked, and then its neighbour as well: what is lost when two are missing is what the neighbour
told. The yardstick is always to say the commonest word. The lab's questions (another language, two senses, a culture, an
idiom) are asked too: this model knows one old book, and says so.
"""

from collections import Counter
from random import Random

import torch
from m1_parts import options, pretrained, tell

from groundup.core import plots
from groundup.data import rows
from groundup.data.listing import jsonl
from groundup.evaluation.metrics import measure
from groundup.nn.cache import Fresh
from groundup.peft.front import lay
from groundup.training.start import begin

ASKED = [
    "In the beginning [MASK] created the heaven and the earth.",
    "And the [MASK] said unto Moses, Go in unto Pharaoh.",
    "And he sat down by the [MASK] of the river.",
    "I love to play [MASK] ball.",
    "It is raining [MASK] and dogs.",
    "Am Anfang schuf [MASK] Himmel und Erde.",
]

given = options(__file__, __doc__)
verses = [{"text": str(row["text"])} for row in rows.read("bible").rows]
Random(0).shuffle(verses)
parts = {"validation": verses[:500], "train": verses[500:3000] if given.quick else verses[500:]}
for name, kept in parts.items():
    (given.out / f"{name}.jsonl").write_bytes(jsonl(kept))
wide = 64 if given.quick else 128
recipe = {
    "family": "bert",
    "model": {"num_hidden_layers": 1 if given.quick else 3, "hidden_size": wide, "num_attention_heads": 4,
              "intermediate_size": 4 * wide, "max_position_embeddings": 128},
    "tokenizer": {"kind": "wordpiece", "vocabulary": 1000 if given.quick else 4000},
    "data": {"source": str(given.out / "train.jsonl"), "validation": str(given.out / "validation.jsonl"), "length": 128},
    "batch": 16,
    "learning_rate": 2e-3,
    "precision": "float32",
}  # fmt: skip
lm = pretrained(recipe, given.out / "run", steps=20 if given.quick else 600)


@torch.inference_mode()
def guessed(masks: int) -> tuple[list[str], list[str]]:
    """For one word of each held-out verse, with `masks` - 1 neighbours masked too: what is said there, and what stood there."""
    draw, said, stood = Random(1), [], []
    for row in parts["validation"]:
        ids = lm.encode(row["text"])[:128]
        at = draw.randrange(1, len(ids) - 2)
        read = [lm.words.mask_id if at <= i < at + masks else id for i, id in enumerate(ids)]
        x, step, own = lay(lm.network, [read], Fresh())
        said.append(str(int(lm.network(x, step, torch.tensor([own[0] + at])).argmax())))
        stood.append(str(ids[at]))
    return said, stood


common = Counter(id for row in parts["train"][:5000] for id in lm.encode(row["text"])[1:-1]).most_common(1)[0][0]
one, stood = guessed(1)
two, _ = guessed(2)
answers = {"trained, one mask": one, "trained, two masks": two, "always the commonest": [str(common)] * len(stood)}
fills = [[f"{word} {share:.2f}" for word, share in lm.fill(text, top=3)] for text in ASKED]
begin(lm.network, seed=1)  # all that was learned is gone
answers["random weights"] = guessed(1)[0]
scores = {name: measure("exact-match", said, stood) for name, said in answers.items()}
plots.bars(["right word"], {n: [(s.value, s.low, s.high)] for n, s in scores.items()}, given.out / "right.png",
           title="The masked word of 500 held-out verses, 95 % intervals")  # fmt: skip
tell(given.out, ("", "right", "95 %"), [(n, f"{s.value:.3f}", f"{s.low:.3f} .. {s.high:.3f}") for n, s in scores.items()],
     {name: score.value for name, score in scores.items()})  # fmt: skip
for text, words in zip(ASKED, fills, strict=True):
    print(f"{text:60} {', '.join(words)}")
