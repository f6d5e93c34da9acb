"""Lecture 2.16: what tuning few numbers does not save.

A step still goes through the whole network and back, so it saves little time; the activations kept for the way back are
counted where autograd keeps them; the base's file is needed as before; and how far seeds and rates shift the score is
measured, too.
"""

from pathlib import Path
from statistics import mean, median, stdev
from tempfile import TemporaryDirectory
from time import perf_counter
from weakref import ref

import torch
from m1_parts import options, tell
from m2_parts import around, bible, books, right, spread, tune, verdict

import groundup as gu
from groundup.core import plots
from groundup.core.files import size
from groundup.data import rows
from groundup.data.encode import encode_all
from groundup.nn.surgery import with_copies
from groundup.peft.method import Method
from groundup.training.objective import causal_loss

METHODS = {  # and a rate that fits a base of this size
    "full": (gu.Full(), 1e-3),
    "LoRA": (gu.LoRA(targets="all"), 3e-3),
    "prefix": (gu.PrefixTuning(length=8), 1e-1),
    "bottleneck": (gu.Bottleneck(), 3e-3),
}

given = options(__file__, __doc__)
seeds, steps, repeats = (2, 6, 1) if given.quick else (3, 150, 15)
lm = bible(given)
train, test = books(800, 20 if given.quick else 250)
batch = encode_all(rows.read(train[:16]), lm.words, 1000).rows


def way_back(method: Method) -> tuple[float, int]:
    """Seconds of one pass forward and back (the median), and the bytes that autograd keeps between the two, weights aside."""
    tuned = gu.adapt(lm, method)
    network, _ = with_copies(tuned.network, method.trained(tuned.network, str(tuned.adapter)))
    weights = {p.untyped_storage().data_ptr() for p in network.parameters()}
    held: dict[int, list[ref]] = {}

    def keep(t: torch.Tensor) -> torch.Tensor:
        if (place := t.untyped_storage().data_ptr()) not in weights:
            held.setdefault(place, []).append(ref(t))
        return t

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        loss, _ = causal_loss(network, batch, adapter=tuned.adapter)
    alive = [[t for one in some if (t := one()) is not None] for some in held.values()]
    kept = sum(max(t.untyped_storage().nbytes() for t in some) for some in alive if some)
    loss.backward()
    spent = []
    for _ in range(repeats):
        began = perf_counter()
        causal_loss(network, batch, adapter=tuned.adapter)[0].backward()
        spent.append(perf_counter() - began)
    return median(spent), kept


passes = {name: way_back(method) for name, (method, _) in METHODS.items()}
score: dict[str, list[float]] = {}
loss: dict[str, list[float]] = {}
rates: dict[str, list[float]] = {}
files = {}
for name, (method, rate) in METHODS.items():
    for seed in range(seeds):
        one = tune(lm, method, train, test, seed=seed, steps=steps, learning_rate=rate)
        score.setdefault(name, []).append(right(one.model, test))
        loss.setdefault(name, []).append(one.loss)
    rates[name] = [tune(lm, method, train, test, steps=steps, learning_rate=rate * by).loss for by in (1 / 5, 5)]
    with TemporaryDirectory() as folder:
        files[name] = sum(p.stat().st_size for p in gu.save(one.model, Path(folder) / "x").glob("*.safetensors"))


peft = [name for name in METHODS if name != "full"]
swing = {name: max(*both, mean(loss[name])) - min(*both, mean(loss[name])) for name, both in rates.items()}
claims = {
    "a step takes at least half of full tuning's time": all(passes[n][0] >= passes["full"][0] / 2 for n in peft),
    "at least half of full tuning's activations are kept": all(passes[n][1] >= passes["full"][1] / 2 for n in peft),
    "the seeds spread wider than full tuning's": all(stdev(score[n]) > stdev(score["full"]) for n in peft),
    "a rate 5 times off costs more than it costs full tuning": all(swing[n] > swing["full"] for n in peft),
}
plots.panels(list(METHODS),
             {"ms forward and back": ([(t, t, t) for t in (1000 * s for s, _ in passes.values())], "{:.0f}".format),
              "activations kept": ([(k, k, k) for _, k in passes.values()], size),
              "file": ([(f, f, f) for f in files.values()], size),
              "right": ([around(s) for s in score.values()], "{:.3f}".format)},
             given.out / "limits.png", title="What tuning few numbers does not save")  # fmt: skip
lines = [(n, f"{1000 * passes[n][0]:.0f}", size(passes[n][1]), size(files[n]), spread(score[n]), spread(loss[n]),
          *(f"{loss_:.3f}" for loss_ in rates[n])) for n in METHODS]  # fmt: skip
tell(
    given.out,
    ("", "ms a step", "activations", "file", "right", "test loss", "at 1/5 of the rate", "at 5 times"),
    lines,
    {"passes": passes, "files": files, "right": score, "loss": loss, "rates": rates, "claims": claims},
)
print(f"beside each file but full's, the base is needed: {size(files['full'])}")
verdict(claims)
