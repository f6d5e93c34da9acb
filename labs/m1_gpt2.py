"""Lab 1.5: the sizes of GPT-2, and sampling 25 tokens with and without a memory of what was read.

The lab reads the whole text again for each new token. A cache of keys gives the same words from one reading. The course
downloads `gpt2`; where no hub is in reach SmolLM2-135M speaks in its place (`--quick`: a random tiny GPT-2, which says ids).
"""

import time

import torch
from m1_parts import count, options, tell

import groundup as gu
from groundup.core import plots
from groundup.inference.decode import answer
from groundup.inference.sampling import Sampling
from groundup.models import gpt2
from groundup.nn.cache import Fresh
from groundup.nn.step import Step

PROMPT = "This is a MOOC about large language models, I have only just started, but already"
NEW = 25

given = options(__file__, __doc__)
with torch.device("meta"):
    sizes = [count(gpt2.build(c)) for c in (gpt2.Config(), gpt2.Config(n_embd=1600, n_layer=48, n_head=25))]

if given.quick:
    lm = gu.build(gpt2.Config(vocab_size=300, n_positions=64, n_embd=48, n_layer=3, n_head=4), std=0.3)
    ids, says = list(range(17)), "(it has no words)"
else:
    lm = gu.load("smollm2-135m-instruct")
    ids = lm.encode(PROMPT)
    says = str(lm.generate(PROMPT, max_tokens=NEW, temperature=1.0, top_k=50, seed=3))


@torch.inference_mode()
def again(ids: list[int]) -> tuple[list[int], list[float]]:
    """The likeliest 25 tokens, everything read anew for each, and when each was there."""
    row, clock, began = list(ids), [0.0], time.perf_counter()
    for _ in range(NEW):
        scores = lm.network(torch.tensor(row), Step.of([len(row)], Fresh()), torch.tensor([len(row) - 1]))
        row.append(int(scores.argmax()))
        clock.append(time.perf_counter() - began)
    return row[len(ids) :], clock


def cached(ids: list[int]) -> tuple[list[int], list[float]]:
    clock, began = [0.0], time.perf_counter()
    sampling = Sampling(max_tokens=NEW, temperature=0.0)
    done = answer(lm.network, [ids], sampling=sampling, on_token=lambda *_: clock.append(time.perf_counter() - began))
    return done[0].ids, clock


for way in (again, cached):
    way(ids)  # the first run also measures how this machine multiplies fastest
(slow, slow_clock), (fast, fast_clock) = again(ids), cached(ids)
plots.heat([slow_clock[1:], fast_clock[1:]], given.out / "seconds.png", lines=["all read again", "with a cache"],
           columns=[str(i + 1) for i in range(NEW)], title="Seconds until each token is there", across="token")  # fmt: skip
lines = [
    ("numbers in gpt2", f"{sizes[0]:,}", "124,439,808"),
    ("numbers in gpt2-xl", f"{sizes[1]:,}", "1,557,611,200"),
    ("25 tokens, all read again for each", f"{slow_clock[-1]:.2f} s", ""),
    ("25 tokens with a cache", f"{fast_clock[-1]:.2f} s", "less"),
    ("the same tokens", slow == fast, "True"),
]
facts = {"sizes": sizes, "same": slow == fast, "seconds": [slow_clock[-1], fast_clock[-1]], "says": says}
tell(given.out, (lm.origin.name, "measured", "expected"), lines, facts)
print(f"\n{PROMPT} ...{says}")
