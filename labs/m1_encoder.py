"""Lab 1.6: the course's encoder, 21,986,304 numbers, and what makes it larger (question 1).

Closed form of a block: 4 d² + 4 d (attention) + 2 d f + f + d (the two matrices) + 4 d (two norms). The number of heads is not
in it, and the layers multiply it.
"""

import torch
from m1_parts import count, encoder, options, tell

from groundup.core import plots

SIZES = {"vocabulary": 5000, "width": 512, "heads": 8, "inner": 2048, "layers": 6, "places": 1000}


def size(**changed: int) -> int:
    with torch.device("meta"):
        return count(encoder(**{**SIZES, **changed}))


def closed(vocabulary: int, width: int, heads: int, inner: int, layers: int, places: int) -> int:
    return (vocabulary + places) * width + layers * (4 * width**2 + 9 * width + 2 * width * inner + inner)


given = options(__file__, __doc__)
sweep = {name: [value // 2, value, value * 2] for name, value in SIZES.items()}
lines, whole = [], size()
for name, values in sweep.items():
    found = [size(**{name: value}) for value in values]
    assert found == [closed(**{**SIZES, name: value}) for value in values]
    lines.append(
        (f"{name} {', '.join(f'{v:,}' for v in values)}", *(f"{n:,}" for n in found), f"{found[2] / whole:.2f}")
    )

widths, depths = [128, 256, 512, 1024], [2, 4, 6, 12]
millions = [[size(width=w, inner=4 * w, layers=n) / 1e6 for n in depths] for w in widths]
plots.heat(millions, given.out / "sizes.png", lines=[str(w) for w in widths], columns=[str(n) for n in depths],
           texts=[[f"{m:.1f}" for m in line] for line in millions], title="Millions of numbers in the encoder",
           down="width (inner = 4 x width)", across="layers")  # fmt: skip
facts = {"whole": whole, "sweep": {name: [size(**{name: v}) for v in values] for name, values in sweep.items()}}
tell(given.out, ("changed alone", "half", "as it is", "double", "times"), lines, facts)
print(f"the lab prints 21,986,304; here {whole:,}")
