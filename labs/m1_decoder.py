"""Labs 1.2 and 1.3: the course's decoder, its size to the number, its mask, and what the lab's own code gets wrong.

The lab leaves `nn.MultiheadAttention` at `batch_first=False` and feeds (batch, sequence, width): attention then runs over
the batch, where a single text sees nothing but itself. And it feeds (1, sequence) where positions are counted along the
first axis, so every word gets position 0. Rows laid end to end with their own `Step` leave no room for either.
"""

import torch
from m1_parts import count, decoder, options, tell
from torch import nn

from groundup.interpret import pictures, tables
from groundup.nn.cache import Fresh
from groundup.nn.step import Step
from groundup.training.start import begin

given = options(__file__, __doc__)
small = decoder(1000, 512, heads=1, inner=1024, layers=1)
with torch.device("meta"):  # 544,552,720 numbers are counted without a byte for them
    large = decoder(10_000, 2048, heads=1, inner=8192, layers=10)

begin(small, seed=0)
ids = torch.randint(1000, (50,))
with torch.inference_mode():
    scores = small(ids, Step.of([50], Fresh()))
    edited = ids.clone()
    edited[30] = (ids[30] + 1) % 1000
    moved = (small(edited, Step.of([50], Fresh())) - scores).abs().amax(1)
    sums = scores.log_softmax(-1).exp().sum(-1)

    # the lab's way: one text of 5 words as (1, 5, 8), read as 5 texts of one word
    x = torch.randn(1, 5, 8)
    attention = nn.MultiheadAttention(8, 2).eval()
    other = x.clone()
    other[0, 4] += 1.0
    (out, weights), (out2, _) = attention(x, x, x), attention(other, other, other)
    blind = float((out2 - out)[0, 0].abs().max())

pictures.mask(tables.mask("causal", 50), given.out / "mask.png", title="Who sees whom in a decoder")
lines = [
    ("numbers: V 1,000, d 512, 1 layer", f"{count(small):,}", "3,127,784"),
    ("numbers: V 10,000, d 2,048, 10 layers", f"{count(large):,}", "544,552,720"),
    ("probabilities of a place sum to", f"{sums.min():.6f} .. {sums.max():.6f}", "1"),
    ("word 30 edited: places 0-29 move by", f"{moved[:30].max():.1e}", "0"),
    ("word 30 edited: places 30-49 move by at least", f"{moved[30:].min():.1e}", "above 0"),
    ("the lab's attention: all its weights are", f"{weights.min():g} .. {weights.max():g}", "(a defect)"),
    ("the lab's attention: word 4 edited moves word 0 by", f"{blind}", "(a defect)"),
]
facts = {
    "small": count(small),
    "large": count(large),
    "sums": float((sums - 1).abs().max()),
    "before": float(moved[:30].max()),
    "after": float(moved[30:].min()),
    "weights": [float(weights.min()), float(weights.max())],
    "blind": blind,
}
tell(given.out, ("", "measured", "expected"), lines, facts)
