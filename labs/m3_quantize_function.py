"""Labs 3.1 and 3.2: one value and one function in few bits, and what a bit is worth.

The lab's rule, round(v (2^(b-1) - 1)), is the house's `absmax` over a row whose largest number is 1; halves round to the even
number. A bit more halves the step, so the error falls by 20 log10(2) = 6.02 dB where the codes are all used: this is measured on
evenly spread numbers, whose error is step² / 12. Then what a scale for each row and a zero point are worth.
"""

import math

import torch
from m1_parts import options, tell
from m2_parts import verdict

from groundup.core.sheet import COLOURS, sheet, write
from groundup.quantization.integers import absmax, affine

given = options(__file__, __doc__)
many = 20_000 if given.quick else 1_000_000
BITS = range(2, 9)


def rounded(v: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes of numbers in -1 .. 1, and the numbers that the codes stand for: 1 is put beside them, so the scale is fixed."""
    codes, scale = absmax(torch.cat([v, v.new_ones(1)])[None].double(), bits=bits)
    codes = codes[0, :-1].double()
    return codes, codes / round(1 / float(scale))


def error(v: torch.Tensor, bits: int) -> float:
    return float((rounded(v, bits)[1] - v).square().mean())


def off(w: torch.Tensor, how: str, per: str) -> float:
    """The mean squared error of a matrix in 8 bits, as a share of its mean square, row by row."""
    if how == "absmax":
        codes, scale = absmax(w, per=per)
        zero = torch.zeros(1, 1)
    else:
        codes, scale, zero = affine(w, per=per)
    return float((((codes.float() - zero) * scale - w).square().mean(1) / w.square().mean(1)).mean())


half = torch.tensor([0.5])
one = {bits: (int(rounded(half, bits)[0]), float(rounded(half, bits)[1])) for bits in (4, 8)}
wave = torch.sin(math.pi * torch.linspace(-1, 1, 100, dtype=torch.float64))
even = torch.rand(many, dtype=torch.float64) * 2 - 1
errors = {bits: (error(wave, bits), error(even, bits), (1 / (2 ** (bits - 1) - 1)) ** 2 / 12) for bits in BITS}
# 2^(b-1) - 1 steps a side: so few that at the first bits a bit more than doubles them
gains = {b: 10 * math.log10(errors[b - 1][1] / errors[b][1]) for b in BITS if b > 2}
wanted = {b: 20 * math.log10((2 ** (b - 1) - 1) / (2 ** (b - 2) - 1)) for b in gains}
ties = [int(c) for c in rounded(torch.tensor([0.5 / 7, 1.5 / 7, 2.5 / 7, 3.5 / 7], dtype=torch.float64), 4)[0]]

torch.manual_seed(0)
rows = torch.randn(64, 256) * torch.logspace(-2, 0, 64)[:, None]  # rows of very different size
lopsided = rows.abs()  # what a ReLU gives
matrices = {"rows of one sign each": lopsided, "rows of both signs": rows}
told = {
    (name, how, per): off(w, how, per)
    for name, w in matrices.items()
    for how in ("absmax", "affine")
    for per in ("tensor", "channel")
}
rowwise = told["rows of both signs", "absmax", "tensor"] / told["rows of both signs", "absmax", "channel"]
zeroed = 10 * math.log10(told["rows of one sign each", "absmax", "channel"] / told["rows of one sign each", "affine", "channel"])  # fmt: skip
control = 10 * math.log10(told["rows of both signs", "absmax", "channel"] / told["rows of both signs", "affine", "channel"])  # fmt: skip

claims = {
    "0.5 is 4 of 7 at 4 bits (.5714) and 64 of 127 at 8 (.5039)": one == {4: (4, 4 / 7), 8: (64, 64 / 127)},
    "halves round to the even number": ties == [0, 2, 2, 4],
    "sin(πx) at 100 points is off by 1.5223e-3 at 4 bits": f"{errors[4][0]:.4e}" == "1.5223e-03",
    "and by 4.5270e-6 at 8": f"{errors[8][0]:.4e}" == "4.5270e-06",
    "evenly spread numbers are off by step² / 12, within 2 %": all(
        abs(e / t - 1) < 0.02 for _, e, t in errors.values()
    ),
    "the eighth bit is worth 6.02 dB, within 0.1": abs(gains[8] - 20 * math.log10(2)) < 0.1,
    "so is every bit from the third on": all(abs(g - 20 * math.log10(2)) < 0.1 for g in gains.values()),
    "a scale for each row matters where rows differ in size (100 times)": rowwise > 100,
    "a zero point is worth one bit where all is of one sign": abs(zeroed - 6.02) < 0.3,
    "and little where it is not": abs(control) < 1,
}
figure, axes = sheet(7.2, 4.4, "A bit is worth 6 dB")
for at, (name, place) in enumerate({"sin(πx), 100 points": 0, "evenly spread": 1, "step² / 12": 2}.items()):
    loud = [-10 * math.log10(errors[b][place]) for b in BITS]
    axes.plot(list(BITS), loud, color=COLOURS[at + 1], marker="o", linestyle="--" if place == 2 else "-", label=name)
axes.set_xlabel("bits")
axes.set_ylabel("-10 log10 of the mean squared error (dB)")
axes.legend(frameon=False)
write(figure, given.out / "bits.png")
figure, axes = sheet(7.2, 4.4, "sin(πx) in 4 bits")
x = torch.linspace(-1, 1, 100).tolist()
axes.plot(x, wave.tolist(), color=COLOURS[0], label="sin(πx)")
axes.step(x, rounded(wave, 4)[1].tolist(), where="mid", color=COLOURS[1], label="4 bits")
axes.legend(frameon=False)
write(figure, given.out / "wave.png")
tell(given.out, ("bits", "sin(πx)", "evenly spread", "step² / 12", "gain dB", "by the count of codes"),
     [(b, f"{errors[b][0]:.4e}", f"{errors[b][1]:.4e}", f"{errors[b][2]:.4e}",
       *((f"{gains[b]:.2f}", f"{wanted[b]:.2f}") if b in gains else ("-", "-"))) for b in BITS],
     {"one": one, "errors": errors, "gains": gains, "ties": ties, "8 bits": {", ".join(k): v for k, v in told.items()},
      "claims": claims})  # fmt: skip
shown = ", ".join(f"{' '.join(k)} {v:.1e}" for k, v in told.items())
print(f"8 bits, error as a share of a row's mean square: {shown}")
verdict(claims)
