"""Lab 1.4: a decoder that knows 24 prepositions speaks, before and after it has learned something.

The lab stops at random weights, and its notes say that the output is random. Here it then learns which preposition follows
which in the King James Bible, all other words left out. It is judged by its surprise at the last tenth, which it has not
seen, beside two counts: how frequent each word is, and how frequent after the one before it.
"""

from collections import Counter
from itertools import pairwise
from math import log

import torch
from m1_parts import count, decoder, learn, options, tell, tokens

from groundup.core import plots
from groundup.data import rows
from groundup.inference.decode import answer
from groundup.inference.sampling import Sampling
from groundup.inference.score import nll
from groundup.inputs.train import train_tokenizer
from groundup.training.objective import causal_loss
from groundup.training.start import begin

KNOWN = (
    "about above across after against among around at before behind below beneath beside between by down from in of on"
)
KNOWN += " over through under with"
LENGTH = 32

given = options(__file__, __doc__)
steps = 30 if given.quick else 600
words = train_tokenizer([KNOWN], "word", vocabulary=40)
book = " ".join(str(row["text"]) for row in rows.read("bible").rows).lower().split()
ids = words.encode(" ".join(word for word in book if word in KNOWN.split()))
seen, unseen = ids[: len(ids) * 9 // 10], ids[len(ids) * 9 // 10 :]
held = [unseen[i : i + LENGTH] for i in range(0, len(unseen) - LENGTH, LENGTH)][: 40 if given.quick else None]
network = decoder(words.vocab_size, 100, heads=4, inner=400, layers=4)
begin(network, seed=0)


def speaks() -> tuple[float, str]:
    """Nats a word on what it has not seen, and ten words after "in", the likeliest each time."""
    loss, n = nll(network, [tokens(row) for row in held])
    said = answer(network, [words.encode("in")], sampling=Sampling(max_tokens=10, temperature=0.0))
    return loss / n, words.decode(said[0].ids)


def batch(step: int) -> torch.Tensor:
    begins = torch.randint(len(seen) - LENGTH, (16,)).tolist()
    loss, n = causal_loss(network, [tokens(seen[i : i + LENGTH]) for i in begins])
    return loss / n


before, first = speaks()
went = learn(network, batch, steps=steps, rate=lambda step: 1e-3 * min((step + 1) / 20, 1 - step / steps))
trained, then = speaks()
plots.loss_curve(went, given.out / "loss.png", validation=[(0, before), (steps, trained)], title="The next preposition")

ones, pairs = Counter(seen), Counter(pairwise(seen))
told = [pair for row in held for pair in pairwise(row)]
alone = sum(-log((ones[b] + 1) / (len(seen) + 24)) for _, b in told) / len(told)
after = sum(-log((pairs[a, b] + 1) / (ones[a] + 24)) for a, b in told) / len(told)
lines = [("random weights", f"{before:.3f}", first), (f"after {steps} steps", f"{trained:.3f}", then)]
lines += [("any of the 24", f"{log(24):.3f}", ""), ("by how frequent a word is", f"{alone:.3f}", "")]
lines += [("... after the one before it", f"{after:.3f}", "")]
facts = {"words": len(KNOWN.split()), "random": before, "trained": trained, "said": [first, then]}
facts |= {"frequency": alone, "pairs": after}
tell(given.out, (f"{count(network):,} numbers", "nats a word", "in ..."), lines, facts)
