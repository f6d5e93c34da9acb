"""Paper 3.9, QLoRA (Dettmers et al., arXiv 2305.14314): an adapter on a base in four bits learns what one on float32 learns.

The base has read the Bible and learns from which book a verse is. Its linears stay in float32, in NF4 and in FP4 while LoRA on all
of them is trained, three seeds each; the codes must not move. What a number costs on disk is read from the files: 4 bits and a
scale for each 64 numbers, 0.5 bits more in float32 and 0.127 in the paper's 8 bits with scales of their own.
"""

from collections import Counter
from statistics import mean
from tempfile import TemporaryDirectory

import torch
from m1_parts import options, tell
from m2_parts import apart, around, bible, books, perplexity, right, spread, tune, verdict, verses

import groundup as gu
from groundup.checkpoints.safetensors import open_safetensors
from groundup.core import plots
from groundup.quantization.shrink import stored

given = options(__file__, __doc__)
seeds, steps, few = (2, 6, 20) if given.quick else (3, 200, 250)
KINDS = {"float32": None, "nf4": "nf4", "nf4, float32 scales": "nf4:double=false", "fp4": "fp4"}


def bits_on_disk(model: gu.Model) -> float:
    """Bits a number of what is stored, from the file's own header."""
    with TemporaryDirectory() as folder:
        file = open_safetensors(gu.save(model, f"{folder}/small"))
        held = stored(model.network)
        names = [n for n in file.names if any(n.startswith(f"{name}.weight.") for name in held)]
        count = sum(s.shape[0] * s.shape[1] for s in held.values())
        return 8 * sum(file.read(n).nbytes for n in names) / count


lm = bible(given)
train, test = books(800, few)
held_out = [{"text": verse["text"]} for verse in verses()[1][: 5 * few]]
commonest = Counter(row["completion"] for row in test).most_common(1)[0][1] / len(test)
bases = {name: lm if to is None else gu.quantize(lm, to) for name, to in KINDS.items()}
untuned = {name: perplexity(base, held_out) for name, base in bases.items()}
off = {
    name: mean(
        float((s.dense() - lm.network.get_submodule(at).weight.dense()).square().mean().sqrt()
              / lm.network.get_submodule(at).weight.dense().std())
        for at, s in stored(base.network).items()
    )
    for name, base in bases.items() if name != "float32"
}  # fmt: skip
bits = {name: bits_on_disk(base) for name, base in bases.items() if name != "float32"} | {"float32": 32.0}
before = {name: {n: t.clone() for n, t in base.network.named_buffers()} for name, base in bases.items()}

score: dict[str, list[float]] = {}
loss: dict[str, list[float]] = {}
for name in [name for name in KINDS if "scales" not in name]:
    for seed in range(seeds):
        one = tune(bases[name], gu.LoRA(targets="all"), train, test, seed=seed, steps=steps, learning_rate=3e-3)
        score.setdefault(name, []).append(right(one.model, test))
        loss.setdefault(name, []).append(one.loss)
same = all(torch.equal(t, dict(bases[name].network.named_buffers())[n]) for name, held in before.items() for n, t in held.items())  # fmt: skip

claims = {
    "NF4 rounds finer than FP4": off["nf4"] < off["fp4"],
    "and hurts the untuned base less": untuned["nf4"] < untuned["fp4"],
    "LoRA on NF4 is within the noise of LoRA on float32": not apart(loss["nf4"], loss["float32"]),
    "LoRA on NF4 is better than on FP4, beyond the noise": mean(loss["nf4"]) < mean(loss["fp4"]) and apart(loss["nf4"], loss["fp4"]),
    "the codes have not moved": same,
    "4.127 bits a number, within 0.03": abs(bits["nf4"] - 4.127) < 0.03,
    "4.5 with scales in float32": abs(bits["nf4, float32 scales"] - 4.5) < 0.03,
}  # fmt: skip
plots.panels(list(score),
             {"right": ([around(s) for s in score.values()], "{:.3f}".format),
              "test loss (nats)": ([around(s) for s in loss.values()], "{:.3f}".format),
              "bits a number": ([(bits[n],) * 3 for n in score], "{:.3f}".format)},
             given.out / "qlora.png", title=f"LoRA on a base in few bits, {seeds} seeds; always the commonest is {commonest:.2f}")  # fmt: skip
tell(given.out, (f"{len(train)} verses, {len(test)} to test", "bits", "rounding", "untuned perplexity", "right", "test loss"),
     [(n, f"{bits[n]:.3f}", f"{off[n]:.4f}" if n in off else "0", f"{untuned[n]:.2f}",
       spread(score[n]) if n in score else "-", spread(loss[n]) if n in loss else "-") for n in KINDS],
     {"bits": bits, "rounding": off, "untuned": untuned, "right": score, "loss": loss, "commonest": commonest,
      "claims": claims})  # fmt: skip
verdict(claims)
