"""Readings 4.33, 4.34: a Transformer, a RetNet and a Hyena of one size read the King James Bible.

Three tiny decoders of as many numbers (within 2 %) learn from the same rows; their loss on held-out stretches is
compared over seeds, and what a token costs in decoding: its time, and what the cache holds of each row. Then one core
of each kind runs forward and back on ever longer rows, to see from where on attention is the slowest.
"""

from statistics import mean

import torch
from m1_parts import count, options, tell
from m2_parts import spread, verdict
from m3_architecture_parts import power, reader, seconds, stream, surprise
from torch import nn

import groundup as gu
from groundup.core import plots
from groundup.core.files import size
from groundup.nn.attention import Attention
from groundup.nn.cache import Fresh, Slots
from groundup.nn.hyena import Hyena
from groundup.nn.positions import Rotary, frequencies
from groundup.nn.retention import Retention
from groundup.nn.step import Step

WIDTH, LAYERS, HEADS, LENGTH, LONGEST = 96, 4, 4, 64, 1024
SIZES = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS}
FAMILIES = {  # the MLPs' widths make up for what the cores differ by
    "attention": ("llama", {"num_attention_heads": HEADS, "intermediate_size": 256, "tie_word_embeddings": True}),
    "retention": ("retnet", {"num_heads": HEADS, "intermediate_size": 128, "hidden_act": "silu"}),
    "hyena": ("hyena", {"intermediate_size": 296, "max_length": LONGEST, "filter_order": 64}),
}

given = options(__file__, __doc__)
seeds = 1 if given.quick else 2
kept = (64, 256) if given.quick else (64, 256, LONGEST)


def decoding(lm: gu.Model, length: int) -> tuple[float, int]:
    """Seconds of a token behind `length` - 1 others in 8 rows, and the bytes that the cache holds of a row."""
    cache, ids = Slots(8, length), torch.zeros(8 * length, dtype=torch.long)
    with torch.inference_mode():
        step = Step.of([length - 1] * 8, cache)
        lm.network(ids[8:], step, torch.tensor([0]))
        cache.advance(step)
        one = Step.of([1] * 8, cache)
        spent = seconds(lambda: lm.network(ids[:8], one), times=3)
    held = [*cache.states.values(), *(t for pair in cache.kept.values() for t in pair)]
    return spent, sum(t.nbytes for t in held) // 8


losses: dict[str, list[float]] = {}
numbers, decode = {}, {}
for name, (family, sizes) in FAMILIES.items():
    for seed in range(seeds):
        lm = reader(given, f"{name}-{seed}", family, {**SIZES, **sizes}, length=LENGTH, steps=800, seed=seed)
        losses.setdefault(name, []).append(
            surprise(lm.network, stream(lm.words, LENGTH)[: 50 if given.quick else None])
        )
    numbers[name] = count(lm.network)
    decode[name] = {n: decoding(lm, n) for n in kept}

lengths = [256, 512] if given.quick else [256, 512, 1024, 2048, 4096, 8192]
turning = Rotary(frequencies(WIDTH // HEADS, 10000.0))
cores: dict[str, nn.Module] = {
    "attention": Attention(WIDTH, heads=HEADS, causal=True, rotary=turning),
    "retention": Retention(WIDTH, heads=HEADS, rotary=turning),
    "hyena": Hyena(WIDTH, context=lengths[-1]),
}
times: dict[str, list[float]] = {}
for name, core in cores.items():
    core.path = "core"
    for p in core.parameters():
        nn.init.normal_(p, std=0.1).requires_grad_()
    for n in lengths:
        x, step = torch.randn(n, WIDTH, requires_grad=True), Step.of([n], Fresh())
        times.setdefault(name, []).append(seconds(lambda: core(x, step).sum().backward(), times=2))  # noqa: B023
grows = {name: power(lengths, some) for name, some in times.items()}
first = {name: next((n for n, a, b in zip(lengths, times["attention"], times[name], strict=True) if b < a), None)
         for name in ("retention", "hyena")}  # fmt: skip

base = mean(losses["attention"])
shortest, longest = kept[0], kept[-1]
claims = {
    "as many numbers, within 2 %": max(numbers.values()) <= 1.02 * min(numbers.values()),
    "retention's loss within 3 % of attention's": mean(losses["retention"]) <= 1.03 * base,
    "Hyena's loss within 3 % of attention's": mean(losses["hyena"]) <= 1.03 * base,
    "retention's cache does not grow": decode["retention"][shortest][1] == decode["retention"][longest][1],
    "retention's token costs the same behind a long row (within 30 %)":
        decode["retention"][longest][0] <= 1.3 * decode["retention"][shortest][0],
    f"Hyena's core is faster than attention's from some length up to {lengths[-1]:,} on": first["hyena"] is not None,
}  # fmt: skip
plots.curves({f"{name}, L^{grows[name]:.2f}": list(zip(lengths, some, strict=True)) for name, some in times.items()},
             given.out / "time.png", title="One core forward and back", across="tokens a row", down="seconds", powers="xy")  # fmt: skip
lines = [(name, f"{numbers[name]:,}", spread(losses[name]),
          *(f"{1000 * decode[name][n][0]:.1f}, {size(decode[name][n][1])}" for n in kept),
          *(f"{1000 * s:.0f}" for s in times[name])) for name in FAMILIES]  # fmt: skip
tell(given.out, ("", "numbers", "loss", *(f"ms, cache at {n:,}" for n in kept), *(f"ms {n:,}" for n in lengths)), lines,
     {"loss": losses, "numbers": numbers, "decode": decode, "lengths": lengths, "seconds": times, "grows": grows,
      "faster from": first, "claims": claims})  # fmt: skip
for name, n in first.items():
    print(f"{name} is faster than attention " + (f"from {n:,} tokens on" if n else f"nowhere up to {lengths[-1]:,}"))
verdict(claims)
