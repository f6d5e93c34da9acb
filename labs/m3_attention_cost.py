"""Lecture 3.2, reading 3.5: attention's scores are a square; in tiles the square is never there.

One causal layer of 4 heads of 32 numbers, forward and back, on rows of N tokens: the six lines of `attend`, which form
the square, and `attend_tiled` (FlashAttention, arXiv 2205.14135), which has the same numbers. Both must compute N²
scores (the tiles above the diagonal are skipped, which halves them); only one holds them. On a GPU the paper gains time
too, since the square travels to slow memory and back; what travels is counted here by its formula, and not timed.
"""

import torch
from m1_parts import options, tell
from m2_parts import verdict
from m3_architecture_parts import bytes_held, power, seconds

from groundup.core import plots
from groundup.core.files import size
from groundup.nn.attention import attend, attend_fused
from groundup.nn.tiled import attend_tiled

HEADS, HEAD, FAST = 4, 32, 100_000  # fast memory: numbers that a GPU's core holds (the paper's M)

given = options(__file__, __doc__)
torch.set_num_threads(1)
lengths = [64, 128, 256] if given.quick else [256, 512, 1024, 2048, 4096]
draw = torch.Generator().manual_seed(0)


def triangle(queries: slice, keys: slice) -> torch.Tensor | bool:
    if keys.start >= queries.stop:
        return False
    if keys.stop - 1 <= queries.start:
        return True
    return (torch.arange(keys.start, keys.stop) <= torch.arange(queries.start, queries.stop)[:, None])[None]


cost: dict[str, list[tuple[float, int]]] = {"square": [], "tiles": []}
kernel = []  # seconds of PyTorch's own fused kernel, whose inner memory nobody can count from here
apart = 0.0
for n in lengths:
    q, k, v = (torch.randn(1, HEADS, n, HEAD, generator=draw).requires_grad_() for _ in range(3))
    toward = torch.randn(1, HEADS, n, HEAD, generator=draw)
    ways = {
        "square": lambda q=q, k=k, v=v, n=n: attend(q, k, v, scale=HEAD**-0.5, mask=torch.ones(1, n, n).tril().bool()),
        "tiles": lambda q=q, k=k, v=v: attend_tiled(q, k, v, scale=HEAD**-0.5, sees=triangle),
    }
    found = {}
    for name, way in ways.items():

        def there_and_back(way=way, given=(q, k, v), toward=toward) -> list[torch.Tensor]:
            out = way()
            return [out, *torch.autograd.grad(out, given, toward)]

        found[name] = [t.detach() for t in there_and_back()]
        cost[name].append((seconds(there_and_back), bytes_held(there_and_back)))
    kernel.append(
        seconds(
            lambda given=(q, k, v), toward=toward: torch.autograd.grad(
                attend_fused(*given, scale=HEAD**-0.5, causal=True), given, toward
            )
        )
    )
    off = [float((a - b).abs().max() / b.abs().max()) for a, b in zip(found["tiles"], found["square"], strict=True)]
    apart = max(apart, *off)

moved = {
    "square": [HEADS * (n * HEAD + n * n) for n in lengths],
    "tiles": [HEADS * max(n * HEAD, n * n * HEAD * HEAD // FAST) for n in lengths],
}
times, memory = ({name: [one[i] for one in some] for name, some in cost.items()} for i in (0, 1))
grows = {kind: {name: power(lengths, some) for name, some in of.items()} for kind, of in
         (("time", times), ("memory", memory))}  # fmt: skip
claims = {
    "the same numbers to 1e-5, forward and back": apart < 1e-5,
    "the square's memory grows as N² (1.8 to 2.1)": 1.8 < grows["memory"]["square"] < 2.1,
    "the tiles' memory grows as N at most": grows["memory"]["tiles"] < 1.1,
    "the square's time grows as N² or faster (1.7 and more)": grows["time"]["square"] > 1.7,
}
each = (memory["tiles"][-1] - memory["tiles"][-2]) / (lengths[-1] - lengths[-2])
for kind, of, unit in (("time", times, "seconds"), ("memory", memory, "bytes held at once")):
    plots.curves({f"{name}, N^{grows[kind][name]:.2f}": list(zip(lengths, some, strict=True)) for name, some in of.items()},
                 given.out / f"{kind}.png", title=f"One layer of attention: {kind}", across="N", down=unit, powers="xy")  # fmt: skip
lines = [(n, *(f"{1000 * times[w][i]:.1f}" for w in times), *(size(memory[w][i]) for w in memory), f"{1000 * kernel[i]:.1f}",
          f"{moved['square'][i] / moved['tiles'][i]:.0f}") for i, n in enumerate(lengths)]  # fmt: skip
lines.append(("N^", *(f"{grows[kind][w]:.2f}" for kind in grows for w in times), f"{power(lengths, kernel):.2f}", ""))
tell(given.out, ("N", "ms square", "ms tiles", "held square", "held tiles", "ms kernel", "moved, square / tiles"), lines,
     {"lengths": lengths, "seconds": times, "bytes": memory, "grows": grows, "apart": apart, "moved": moved,
      "kernel": kernel, "bytes a token": each, "claims": claims})  # fmt: skip
print(f"the tiles hold one tile, and {each:,.0f} bytes a token (q, its output, gradients and one number a head)")
verdict(claims)
