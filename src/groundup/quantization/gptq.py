"""Rounding that makes up for its own errors: GPTQ (Frantar et al., arXiv 2210.17323).

    H = Σ x xᵀ + λ I                        what the linear is given; λ: a hundredth of H's mean diagonal
    U = upper Cholesky factor of H⁻¹        (section 3.3, step 3)
    for each column j, from the left:
        q_j = round(w_j)                    onto its group's grid
        w_k -= (w_j - q_j) / U_jj · U_jk    for every k > j: what is still to be rounded takes over the error

so that Σ |W x - Q x|² is small, not |W - Q|². Columns of one group share a grid, which is laid when the group is reached.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

DAMPING = 0.01

Grid = Callable[[Float[Tensor, "O G"]], Callable[[Float[Tensor, " O"]], Float[Tensor, " O"]]]
"""From a group's columns to what rounds a column of it; it keeps its codes and scales itself."""


def compensate(
    weight: Float[Tensor, "O I"], gram: Float[Tensor, "I I"], grid: Grid, group: int = 32
) -> Float[Tensor, "O I"]:
    """The rounded matrix; `grid` is asked once a group, from the left, and then for each of the group's columns."""
    w, factor = weight.double().clone(), _factor(gram)
    rounded = torch.empty_like(w)
    for start in range(0, w.shape[1], group):
        end = min(start + group, w.shape[1])
        onto = grid(w[:, start:end].float())
        errors = torch.zeros(len(w), end - start, dtype=w.dtype, device=w.device)
        for j in range(start, end):
            rounded[:, j] = onto(w[:, j].float()).double()
            error = (w[:, j] - rounded[:, j]) / factor[j, j]
            w[:, j + 1 : end] -= error[:, None] * factor[j, j + 1 : end]
            errors[:, j - start] = error
        w[:, end:] -= errors @ factor[start:end, end:]
    return rounded.float()


def _factor(gram: Float[Tensor, "I I"]) -> Float[Tensor, "I I"]:
    """U of H⁻¹ = Uᵀ U, float64; an input that was never anything but 0 says nothing of its weights."""
    h = gram.double().clone()
    diagonal = h.diagonal()
    damping = DAMPING * diagonal.mean().clamp_min(1e-12)
    diagonal.add_(damping)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(h))
    return torch.linalg.cholesky(inverse, upper=True)
