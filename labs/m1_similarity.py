"""Labs 1.7 and 1.8: which texts are alike, by random weights and by a trained encoder (MiniLM).

What the notebooks do otherwise: their first plot is of `np.random.rand`, not of the model; a word's vector is taken from
`last_hidden_state[0, 0]`, which is [CLS]; similarity is computed with dropout on, so that a text is not like itself; and
question 3 is graded by sets of characters, which are equal for any order.
"""

from copy import deepcopy
from dataclasses import replace
from itertools import combinations

import torch
from m1_parts import options, tell

import groundup as gu
from groundup.interpret import look, pictures, vectors
from groundup.training.start import begin

GROUPS = {
    "animals": "cat dog horse cow sheep lion tiger mouse",
    "food": "bread cheese apple rice soup butter honey cake",
    "vehicles": "car train bicycle truck bus ship plane tram",
}
SAID, SCRAMBLED = "the cat chased the dog", "the dog chased the cat"
BANKS = {
    "river": ["they sat on the bank of the river", "the boat lay on the muddy bank", "trees grow on the bank of the stream"],
    "money": ["she put her money in the bank", "the bank raised its interest rate", "he asked the bank for a loan"],
}  # fmt: skip

given = options(__file__, __doc__)
trained = gu.load("all-minilm-l6-v2")
blank = replace(trained, network=deepcopy(trained.network))
begin(blank.network, seed=0)
words = [word for group in GROUPS.values() for word in group.split()]
groups = [name for name, group in GROUPS.items() for _ in group.split()]


def blind(lm: gu.Model) -> gu.Model:
    """The same model without positions."""
    network = deepcopy(lm.network)
    network.embed.positions.weight.values.data.zero_()
    return replace(lm, network=network)


def cosine(lm: gu.Model, one: str, other: str) -> float:
    a, b = lm.embed([one, other])
    return float(a @ b)


def bank(lm: gu.Model, text: str) -> torch.Tensor:
    """The vector of the word itself in the last layer, not of [CLS]."""
    last = look.states(lm, text)[-1]
    return last.x[last.tokens.index("bank")]


def senses(lm: gu.Model) -> tuple[float, float]:
    """The mean cosine of two banks of one sense, and of two senses."""
    found = [(sense, bank(lm, text)) for sense, texts in BANKS.items() for text in texts]
    same, cross = [], []
    for (sense, a), (other, b) in combinations(found, 2):
        (same if sense == other else cross).append(float(torch.cosine_similarity(a, b, dim=0)))
    return sum(same) / len(same), sum(cross) / len(cross)


facts, lines = {}, []
for name, lm in (("random", blank), ("MiniLM", trained)):
    seen = vectors.embedding_map(lm, words, groups)
    pictures.embedding_map(seen, given.out / f"{name.lower()}.png")
    order, bag = cosine(lm, SAID, SCRAMBLED), cosine(blind(lm), SAID, SCRAMBLED)
    same, cross = senses(lm)
    facts[name] = {"silhouette": seen.silhouette, "order": order, "bag": bag, "same": same, "cross": cross}
    lines.append((name, f"{seen.silhouette:.3f}", f"{order:.4f}", f"{bag:.6f}", f"{same:.3f}", f"{cross:.3f}"))
header = ("", "silhouette", "scrambled", "... without positions", "bank, one sense", "bank, two senses")
tell(given.out, header, lines, facts)
print(f"equal sets of characters (the lab's grader): {set(SAID) == set(SCRAMBLED)}")
