"""Reading 1.6 (A Mathematical View of Attention Models): attention as matrices, and what follows from it.

Columns are words there: O = V softmax(KᵀQ), each column of the softmax a share that sums to 1. groundup has rows, and scales
by 1/√d. Each statement is measured with a control that must not hold.
"""

import numpy as np
import torch
from m1_parts import options, tell

from groundup.core import plots
from groundup.nn.attention import Attention, attend
from groundup.nn.cache import Fresh
from groundup.nn.positions import Sinusoidal
from groundup.nn.step import Step

D, N, M = 8, 5, 7  # numbers a word, queries, keys

given = options(__file__, __doc__)
draw = np.random.default_rng(0)
q, k, v = (draw.standard_normal((D, n)) for n in (N, M, M))


def softmax(scores: np.ndarray) -> np.ndarray:
    e = np.exp(scores - scores.max(0))
    return e / e.sum(0)


def columns(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    return v @ softmax(k.T @ q / np.sqrt(D))


def house(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    rows = [torch.from_numpy(t.T.copy())[None, None] for t in (q, k, v)]
    return attend(*rows, scale=D**-0.5)[0, 0].numpy().T


def off(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max())


o, order, keys = house(q, k, v), draw.permutation(N), draw.permutation(M)
part = Attention(D, heads=2)  # a whole self-attention, with its projections
part.path = "attn"
for p in part.parameters():
    torch.nn.init.normal_(p, std=0.7)


@torch.inference_mode()
def itself(x: np.ndarray, places: bool = False) -> np.ndarray:
    rows = torch.from_numpy(x.T.copy()).float()
    rows = rows + Sinusoidal(D).table(torch.arange(len(rows))).float() if places else rows
    return part(rows, Step.of([len(rows)], Fresh())).numpy().T


statements = [
    ("the same as V softmax(KᵀQ) in numpy", off(o, columns(q, k, v)), off(o, columns(q, v, v))),
    ("columns of the softmax sum to 1", off(softmax(k.T @ q).sum(0), np.ones(N)), off(softmax(k.T @ q).sum(1), np.ones(M))),
    ("permuted queries: permuted outputs", off(house(q[:, order], k, v), o[:, order]), off(house(q[:, order], k, v), o)),
    ("keys and values permuted together: nothing", off(house(q, k[:, keys], v[:, keys]), o), off(house(q, k[:, keys], v), o)),
    ("self-attention: permuted words, permuted outputs", off(itself(q[:, order]), itself(q)[:, order]),
     off(itself(q[:, order], places=True), itself(q, places=True)[:, order])),
]  # fmt: skip
plots.heat(softmax(k.T @ q / np.sqrt(D)).tolist(), given.out / "weights.png", lines=[f"key {i}" for i in range(M)],
           columns=[f"query {i}" for i in range(N)], title="softmax(KᵀQ): each column sums to 1", limits=(0.0, 1.0))  # fmt: skip
facts = {name: [held, control] for name, held, control in statements}
lines = [(name, f"{held:.1e}", f"{control:.2f}") for name, held, control in statements]
tell(given.out, ("statement", "off by", "control off by"), lines, facts)
