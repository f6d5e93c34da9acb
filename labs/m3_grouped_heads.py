"""Reading 3.6 (GQA, arXiv 2305.13245): from many key heads to few, by pooling and 5 % more updates.

A tiny Llama with a key head for each of its 8 heads reads the King James Bible. Its key heads are pooled into groups by
their mean, by their first, or drawn anew; the loss on held-out stretches is taken at once, and after 5 % more updates
on what it had learned from. The model unchanged gets the same updates, as the control.
"""

import copy
from collections.abc import Callable

import torch
from m1_parts import learn, options, tell
from m2_parts import apart, spread, verdict
from m3_architecture_parts import reader, seconds, stream, surprise

import groundup as gu
from groundup.core import plots
from groundup.core.files import size
from groundup.nn.cache import Slots
from groundup.nn.step import Step
from groundup.training.convert import kept_per_token
from groundup.training.objective import causal_loss

HEADS, STEPS, LENGTH = 8, 1500, 64
POOLS = ("mean", "first", "random")
ROWS, KEYS = 16, 1024  # of the cache, for decoding's time

given = options(__file__, __doc__)
groups, seeds = ((1,), 1) if given.quick else ((2, 1), 3)
sizes = {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": HEADS, "intermediate_size": 256,
         "tie_word_embeddings": True}  # fmt: skip
lm = reader(given, "many-heads", "llama", sizes, length=LENGTH, steps=STEPS)
held = stream(lm.words, LENGTH)[: 20 if given.quick else None]
read = stream(lm.words, LENGTH, held_out=False)
more = 2 if given.quick else STEPS // 20


def after(model: gu.Model, seed: int) -> float:
    """The held-out loss after 5 % more updates, in an order of this seed."""
    network = copy.deepcopy(model.network)
    order = torch.randperm(len(read), generator=torch.Generator().manual_seed(seed)).tolist()

    def loss(step: int) -> torch.Tensor:
        total, count = causal_loss(network, [read[i] for i in order[16 * step : 16 * step + 16]])
        return total / count

    learn(network, loss, steps=more, rate=lambda step: 1e-3 * (1 - step / more), beta2=0.95)
    return surprise(network, held)


def decoding(model: gu.Model) -> tuple[float, int]:
    """Seconds of a token in each of some long rows, and the bytes that the cache holds of them."""
    cache = Slots(ROWS, KEYS)
    step = Step.of([KEYS - 1] * ROWS, cache)
    ids = torch.randint(model.words.vocab_size, (ROWS * (KEYS - 1),), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        model.network(ids, step, torch.tensor([0]))
        cache.advance(step)
        one = Step.of([1] * ROWS, cache)
        spent = seconds(lambda: model.network(ids[:ROWS], one), times=3 if given.quick else 20)
    return spent, sum(t.nbytes for pair in cache.kept.values() for t in pair)


arms: dict[tuple[int, str], Callable[[int], gu.Model]] = {(HEADS, "as it was"): lambda seed: lm}
for count in groups:
    for pool in POOLS:
        arms[count, pool] = lambda seed, g=count, p=pool: gu.convert(lm, kv_heads=g, pool=p, seed=seed)
before = {arm: [surprise(make(seed).network, held) for seed in range(seeds)] for arm, make in arms.items()}
later = {arm: [after(make(seed), seed) for seed in range(seeds)] for arm, make in arms.items()}
speed = {count: decoding(gu.convert(lm, kv_heads=count)) for count in (HEADS, *groups)}


def below(one: list[float], other: list[float]) -> bool:
    return sum(one) < sum(other) and (apart(one, other) or len(set(one)) + len(set(other)) == 2)


claims = {}
for count in groups:
    for when, of in (("at once", before), ("after 5 % more", later)):
        mean, first, random = (of[count, pool] for pool in POOLS)
        claims[f"{count} of {HEADS} key heads, {when}: mean below first"] = below(mean, first)
        claims[f"{count} of {HEADS} key heads, {when}: first below random"] = below(first, random)
    claims[f"{count} of {HEADS}: the cache is 1/{HEADS // count} to the byte"] = (
        speed[count][1] * HEADS == speed[HEADS][1] * count
        and kept_per_token(gu.convert(lm, kv_heads=count).network) * HEADS == kept_per_token(lm.network) * count
    )
    claims[f"{count} of {HEADS}: decoding is faster"] = speed[count][0] < speed[HEADS][0]
names = [f"{count}, {pool}" for count, pool in arms]
plots.panels(names,
             {when: ([(sum(v) / len(v), min(v), max(v)) for v in of.values()], "{:.2f}".format)
              for when, of in (("at once", before), (f"after {more} updates", later))},
             given.out / "heads.png", title="Loss of the held-out Bible (nats a token) by key heads")  # fmt: skip
lines = [(name, spread(before[arm]), spread(later[arm]), f"{1000 * speed[arm[0]][0]:.2f}", size(speed[arm[0]][1]))
         for name, arm in zip(names, arms, strict=True)]  # fmt: skip
tell(given.out, ("key heads", "loss at once", f"after {more} updates", "ms a token", "cache"), lines,
     {"before": {n: before[a] for n, a in zip(names, arms, strict=True)},
      "after": {n: later[a] for n, a in zip(names, arms, strict=True)}, "speed": speed, "claims": claims})  # fmt: skip
verdict(claims)
