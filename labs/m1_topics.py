"""Paper 1.4 (GPT-1, Radford et al. 2018): a decoder that has read the King James Bible learns the topics of fortunes.

From scratch or pretrained, with and without the auxiliary loss L = L_topic + 0.5 · L_words (section 3.2). A text ends with the
token whose state stands for all of it. Counting words (TF-IDF and logistic regression) is measured beside them.
"""

from collections import Counter
from copy import deepcopy
from random import Random

import torch
import torch.nn.functional as F
from m1_parts import Label, learn, options, pretrained, tell, tokens

from groundup.core import plots
from groundup.data.parts import divide
from groundup.data.rows import Stream
from groundup.evaluation.baselines import majority, tfidf
from groundup.evaluation.metrics import measure
from groundup.training.objective import causal_loss
from groundup.training.start import begin

LENGTH, KINDS = 64, 8

given = options(__file__, __doc__)
first, steps, seeds, most = (15, 15, 1, 60) if given.quick else (400, 200, 2, 600)
sizes = {"n_layer": 1, "n_embd": 48} if given.quick else {"n_layer": 4, "n_embd": 128}
recipe = {
    "family": "gpt2",
    "model": {**sizes, "n_head": 4, "n_positions": 128},
    "tokenizer": {"kind": "bpe", "vocabulary": 800 if given.quick else 3000},
    "data": {"source": "bible", "length": 128, "documents": "joined"},
    "batch": 16,
    "learning_rate": 2e-3,
    "precision": "float32",
}
lm = pretrained(recipe, given.out / "run", steps=first)
items = list(Stream("fortunes").good())
topics = [name for name, _ in Counter(item.record["topic"] for item in items).most_common(KINDS)]
items = [item for item in items if item.record["topic"] in topics]
Random(0).shuffle(items)
places = divide(items, test=600, seed=0)
train = [(items[i].record["text"], items[i].record["topic"]) for i in places["train"]][:2000]
test = [(items[i].record["text"], items[i].record["topic"]) for i in places["test"]][:most]
right, end = [topic for _, topic in test], lm.words.eos_id
rows = {
    part: [[end, *lm.encode(text)[: LENGTH - 2], end] for text, _ in held]
    for part, held in (("train", train), ("test", test))
}
wanted = torch.tensor([topics.index(topic) for _, topic in train])


def tuned(scratch: bool, weight: float, seed: int) -> list[str]:
    """What is said of the test's texts after fine-tuning; `weight` of the loss on their words."""
    torch.manual_seed(seed)
    model = Label(deepcopy(lm.network), KINDS)
    if scratch:
        begin(model.network, seed)

    def loss(step: int) -> torch.Tensor:
        at = torch.randint(len(train), (32,)).tolist()
        some = [rows["train"][i] for i in at]
        said, n = causal_loss(model.network, [tokens(row) for row in some]) if weight else (0.0, 1)
        return F.cross_entropy(model(some), wanted[at]) + weight * said / n

    learn(model, loss, steps=steps, rate=lambda step: 1e-3 * min((step + 1) / 20, 1 - step / steps), beta2=0.999)
    with torch.inference_mode():
        return [topics[int(model([row]).argmax())] for row in rows["test"]]


said = {f"{name}{more}": [tuned(scratch, weight, seed) for seed in range(seeds)]
        for name, scratch in (("from scratch", True), ("pretrained", False))
        for more, weight in (("", 0.0), (", words too", 0.5))}  # fmt: skip
said["counted words"] = [tfidf(*map(list, zip(*train, strict=True)), [text for text, _ in test])]
said["commonest topic"] = [majority([topic for _, topic in train], len(test))]
scores = {name: [measure("exact-match", one, right) for one in found] for name, found in said.items()}
plots.bars(["first seed"], {name: [(s[0].value, s[0].low, s[0].high)] for name, s in scores.items()},
           given.out / "right.png", title=f"{len(test)} fortunes of {KINDS} topics: right, 95 % intervals")  # fmt: skip
lines = [(name, f"{sum(x.value for x in s) / len(s):.3f}", " ".join(map(str, s))) for name, s in scores.items()]
facts = {name: [x.value for x in s] for name, s in scores.items()}
tell(given.out, (f"{len(train)} rows to learn from", "right", "each seed"), lines, facts)
