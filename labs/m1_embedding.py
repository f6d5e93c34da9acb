"""Lab 1.1: words become vectors, and waves tell places apart.

The lab's own code for positions fails where the width is odd: it fills two columns a step, and the last one has no pair.
"""

import torch
from m1_parts import options, tell
from torch import nn

from groundup.inputs.train import train_tokenizer
from groundup.interpret import pictures, tables
from groundup.nn.cache import Fresh
from groundup.nn.embed import Embed
from groundup.nn.linear import Embedding
from groundup.nn.positions import Sinusoidal
from groundup.nn.step import Step

WIDTH = 16
SENTENCE = "The quick brown fox jumps over the lazy dog"

given = options(__file__, __doc__)
words = train_tokenizer([SENTENCE.lower()], "word", vocabulary=50)
ids = words.encode(SENTENCE.lower())

embed = Embed(Embedding(words.vocab_size, WIDTH), positions=Sinusoidal(WIDTH))
nn.init.normal_(embed.tokens.weight.values)
step = Step.of([len(ids)], Fresh())
x = embed(torch.tensor(ids), step)  # [9, 16]: the sum that the first block reads
waves = x - embed.tokens(torch.tensor(ids), step)
both = [at for at, id in enumerate(ids) if id == ids[0]]  # "the" stands twice

table = tables.positions("sinusoidal", 64, width=WIDTH)[0]
pictures.positions(table, given.out / "positions.png")
odd = Sinusoidal(7).table(torch.arange(3))

lines = [
    ("words, and numbers a word", f"{len(ids)} x {x.shape[1]}"),
    ("place 0", " ".join(f"{v:g}" for v in table.values[0, :6].tolist()) + " ..."),
    ("least and greatest number", f"{table.values.min():.4f} {table.values.max():.4f}"),
    ("'the' at two places: cosine of the words alone", f"{torch.cosine_similarity(*(x - waves)[both], dim=0):.3f}"),
    ("'the' at two places: cosine of the sums", f"{torch.cosine_similarity(*x[both], dim=0):.3f}"),
    ("a width of 7", "works, ends in a sine"),
]
facts = {
    "first": table.values[0].tolist(),
    "most": float(table.values.abs().max()),
    "sum": list(x.shape),
    "off": float((waves - table.values[: len(ids)]).abs().max()),
    "odd": odd.tolist(),
}
tell(given.out, ("", "measured"), lines, facts)
