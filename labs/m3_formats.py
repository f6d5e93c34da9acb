"""Lecture 3.7: what float32, bfloat16 and float16 hold, how they round, and where sums and gradients are lost in them.

    bfloat16   1 sign, 8 of exponent, 7 of fraction      float32's range, 2 to 3 decimal digits
    float16    1 sign, 5 of exponent, 10 of fraction     up to 65,504, 3 to 4 digits

Both roundings are written out here, to the nearest and halves to the even one, and set against PyTorch's: for bfloat16 at each of
the 2^16 upper halves of a float32 with five lower halves, for float16 at each of the 2^16 patterns, half-way to its neighbour, and a
hair to both sides of that. Whoever rounds halves away from zero, or cuts, is seen.
"""

from collections.abc import Callable

import torch
from m1_parts import options, tell
from m2_parts import bible, books, verdict
from torch import Tensor

from groundup.core.sheet import COLOURS, sheet, write
from groundup.data import rows
from groundup.data.encode import encode_all
from groundup.training.objective import causal_loss

given = options(__file__, __doc__)
FORMATS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


# --- rounding, written out --------------------------------------------------------------------------------------------


def to_bfloat16(bits: Tensor, how: str = "even") -> Tensor:
    """The upper 16 bits of float32 patterns (int64), rounded; a NaN stays one."""
    more = {"even": 0x7FFF + (bits >> 16 & 1), "away": 0x8000, "cut": 0}[how]
    found = bits + more >> 16 & 0xFFFF
    return torch.where((bits & 0x7FFFFFFF) > 0x7F800000, (bits >> 16 & 0x8000) | 0x7FC0, found)


def to_float16(x: Tensor, how: str = "even") -> Tensor:
    """float64 numbers to the nearest that 10 bits of fraction and exponents from -14 to 15 hold."""
    step = torch.pow(2.0, (torch.frexp(x.abs()).exponent - 1).clamp(min=-14).double() - 10)
    whole = x / step
    whole = {"even": torch.round, "away": lambda w: (w.abs() + 0.5).floor() * w.sign(), "cut": torch.trunc}[how](whole)
    return torch.where((whole * step).abs() > 65504, torch.sign(x) * torch.inf, whole * step)


def from_float16(pattern: Tensor) -> Tensor:
    """What a pattern of 16 bits stands for, by the definition (IEEE 754); NaN and infinity as such."""
    sign, exponent, fraction = 1 - 2 * (pattern >> 15), pattern >> 10 & 31, (pattern & 1023).double()
    normal = (1 + fraction / 1024) * torch.pow(2.0, exponent.double() - 15)
    found = torch.where(exponent == 0, fraction / 1024 * 2.0**-14, normal)
    end = torch.where(fraction == 0, torch.inf, torch.nan)
    return sign * torch.where(exponent == 31, end, found)


def wrong(ours: Tensor, theirs: Tensor) -> int:
    return int((~((ours == theirs) | (ours.isnan() & theirs.isnan()))).sum())


patterns = torch.arange(1 << 16)
bits = (patterns[:, None] << 16 | torch.tensor([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF])).flatten()
floats = torch.where(bits >= 1 << 31, bits - (1 << 32), bits).to(torch.int32).view(torch.float32)
theirs = floats.to(torch.bfloat16).view(torch.int16).long() & 0xFFFF
as_number = lambda p: torch.where(p >= 1 << 15, p - (1 << 16), p).to(torch.int16).view(torch.bfloat16).double()
counts = {f"bfloat16, halves {how}": wrong(as_number(to_bfloat16(bits, how)), as_number(theirs)) for how in ("even", "away", "cut")}  # fmt: skip

halves = torch.where(patterns >= 1 << 15, patterns - (1 << 16), patterns).to(torch.int16).view(torch.float16)
held = from_float16(patterns)
counts["float16, read"] = wrong(held, halves.double())
finite = held[:0x7C00].sort().values  # the positive ones; what is above 65,504 by half a step is infinite
middle = torch.cat([(finite[:-1] + finite[1:]) / 2, finite[-1:] + 16])
near = torch.cat([finite, *(middle * (1 + off) for off in (0.0, 2.0**-20, -(2.0**-20)))]).float().double()
near = torch.cat([near, -near])
for how in ("even", "away", "cut"):
    counts[f"float16, halves {how}"] = wrong(to_float16(near, how), near.float().half().double())


# --- what is lost -----------------------------------------------------------------------------------------------------


def added(one: float, times: int, dtype: torch.dtype) -> tuple[float, list[float]]:
    """The same number added so often, one by one; and the sum as it grows."""
    total, each, went = torch.zeros((), dtype=dtype), torch.tensor(one, dtype=dtype), []
    for _ in range(times):
        total = total + each
        went.append(float(total))
    return float(total), went


times = 1000 if given.quick else 5000
ones = {name: added(1.0, times, dtype) for name, dtype in FORMATS.items()}
tenths = {name: added(0.1, times, dtype)[0] / (0.1 * times) for name, dtype in FORMATS.items()}
x = torch.randn(4096, generator=torch.Generator().manual_seed(0)) * 10
squares = {name: float((x.to(dtype) ** 2).cumsum(0, dtype=dtype)[-1]) for name, dtype in FORMATS.items()}
exact = float((x.double() ** 2).sum())

lm = bible(given)
lm.network.requires_grad_().train()
batch = encode_all(rows.read(books(64, 1)[0]), lm.words, 1000).rows
loss, n = causal_loss(lm.network, batch)
(loss / n).backward()
gradient = torch.cat([p.grad.flatten() for p in lm.network.parameters() if p.grad is not None])
gradient = gradient[gradient != 0]
lm.network.requires_grad_(False).eval()


def lost(dtype: torch.dtype, scale: float = 1.0) -> float:
    """The share of the gradient's numbers that become 0 in this format."""
    return float(((gradient * scale).to(dtype) == 0).float().mean())


gone = {name: lost(dtype) for name, dtype in FORMATS.items()} | {"float16, loss times 1,024": lost(torch.float16, 1024)}
weight = next(p for p in lm.network.parameters() if p.ndim == 2).detach()
stuck = {  # an update of a thousandth of the weight
    name: float(((weight.to(d) + (weight * 1e-3).to(d)) == weight.to(d)).float().mean()) for name, d in FORMATS.items()
}

info = {name: torch.finfo(dtype) for name, dtype in FORMATS.items()}
shown: dict[str, Callable[[str], str]] = {
    "bits of exponent and fraction": lambda n: {"float32": "8, 23", "bfloat16": "8, 7", "float16": "5, 10"}[n],
    "largest": lambda n: f"{info[n].max:.6g}",
    "least normal": lambda n: f"{info[n].tiny:.3g}",
    "step above 1": lambda n: f"{info[n].eps:.3g}",
    "0.1 becomes": lambda n: f"{float(torch.tensor(0.1, dtype=FORMATS[n])):.9g}",
    "70,000 becomes": lambda n: f"{float(torch.tensor(70000.0).to(FORMATS[n])):g}",
    "1e-8 becomes": lambda n: f"{float(torch.tensor(1e-8).to(FORMATS[n])):.5g}",
    f"1 added {times:,} times": lambda n: f"{ones[n][0]:g}",
    f"0.1 added {times:,} times, of the sum": lambda n: f"{tenths[n]:.4f}",
    f"sum of 4,096 squares, exactly {exact:.0f}": lambda n: f"{squares[n]:.0f}",
    "gradient numbers that become 0": lambda n: f"{gone[n]:.2%}",
    "weights that a change of 0.1 % leaves": lambda n: f"{stuck[n]:.2%}",
}
claims = {
    "bfloat16's rule is PyTorch's at every pattern": counts["bfloat16, halves even"] == 0,
    "float16's reading and rule are PyTorch's at every pattern": counts["float16, read"] == counts["float16, halves even"] == 0,
    "halves away from zero, and cutting, are not": min(v for k, v in counts.items() if "away" in k or "cut" in k) > 10_000,
    "float16 ends at 65,504, bfloat16 near 3.39e38": info["float16"].max == 65504 and f"{info['bfloat16'].max:.2e}" == "3.39e+38",
    "a sum overflows in float16 and not in bfloat16": squares["float16"] == float("inf") > squares["bfloat16"],
    "bfloat16 stops counting at 256, float16 at 2,048": (ones["bfloat16"][0], ones["float16"][0]) == (256, min(times, 2048)),
    "bfloat16 loses no gradient that float32 holds, float16 some": gone["bfloat16"] == 0 < gone["float16"],
    "a loss times 1,024 brings most of those back": gone["float16, loss times 1,024"] < gone["float16"] / 10,
    "weights kept in bfloat16 miss small updates": stuck["bfloat16"] > 0.5 > stuck["float16"],
}  # fmt: skip
figure, axes = sheet(7.2, 4.4, "Counting by ones")
for at, name in enumerate(FORMATS):
    axes.plot(range(1, times + 1), ones[name][1], color=COLOURS[at + 1], label=name)
axes.set_xlabel("ones added")
axes.set_ylabel("sum")
axes.legend(frameon=False)
write(figure, given.out / "counting.png")
tell(given.out, ("", *FORMATS), [(what, *(say(n) for n in FORMATS)) for what, say in shown.items()],
     {"wrong": counts, "ones": {n: v[0] for n, v in ones.items()}, "tenths": tenths, "gradients lost": gone,
      "weights that stay": stuck, "claims": claims})  # fmt: skip
print("numbers rounded otherwise than by PyTorch:", ", ".join(f"{k} {v:,}" for k, v in counts.items()))
print(f"gradient numbers that become 0 in float16 with the loss times 1,024: {gone['float16, loss times 1,024']:.2%}")
verdict(claims)
