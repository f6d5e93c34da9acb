"""Retention: each head sums what it has read, and forgets a share of it at every token (RetNet, arXiv 2307.08621).

One sum, three ways to take it (section 2.1); γ is a head's share that stays, S its state [Dk, Dv]:

    parallel     o = (q kᵀ ⊙ D) v     D[n, m] = γ^(n - m) where m ≤ n     all at once, like attention without a softmax
    recurrent    S' = γ S + kᵀ v      o = q S'                            a token costs the same however long its row is
    chunkwise    o = (q kᵀ ⊙ D) v + γ^(i + 1) q S                         parallel within a chunk, S from chunk to chunk
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from groundup.nn.linear import Linear
from groundup.nn.positions import Rotary
from groundup.nn.step import Step

CHUNK = 128  # tokens of a chunk: up to which all at once is the quickest, and beyond which its square grows


def retain(
    q: Float[Tensor, "B H L Dk"],
    k: Float[Tensor, "B H L Dk"],
    v: Float[Tensor, "B H L Dv"],
    decay: Float[Tensor, " H"],
    *,
    lengths: Sequence[int] | None = None,
    state: Float[Tensor, "B H Dk Dv"] | None = None,
    size: int | None = None,
) -> tuple[Float[Tensor, "B H L Dv"], Float[Tensor, "B H Dk Dv"]]:
    """o[n] = Σ γ^(n - m) (q[n] · k[m]) v[m] over m ≤ n, and the state that each row leaves (equations 3 to 7).

    decay    γ of each head
    lengths  real tokens of each row; what stands behind them leaves no trace in the state (None: all L)
    state    what came before (None: nothing), in float32 at least, since it is added to again and again
    size     tokens of a chunk: 1 is the recurrent form, None the parallel one
    """
    length = q.shape[2]
    size = max(length, 1) if size is None else size
    if state is None:
        wide = torch.float64 if q.dtype == torch.float64 else torch.float32
        state = q.new_zeros(*q.shape[:2], q.shape[3], v.shape[3], dtype=wide)
    out = []
    for begin in range(0, length, size):
        real = None if lengths is None else [min(max(n - begin, 0), size) for n in lengths]
        here = slice(begin, begin + size)
        part, state = _chunk(q[:, :, here], k[:, :, here], v[:, :, here], decay, real, state)
        out.append(part)
    return torch.cat(out, 2) if len(out) != 1 else out[0], state


def _chunk(
    q: Tensor, k: Tensor, v: Tensor, decay: Tensor, lengths: Sequence[int] | None, state: Tensor
) -> tuple[Tensor, Tensor]:
    length, log = q.shape[2], decay.log()[:, None]
    place = torch.arange(length, device=q.device)
    distance = place[:, None] - place
    stays = (log[..., None] * distance.clamp(min=0)).exp().where(distance >= 0, 0.0).to(q.dtype)  # [H, L, L]
    before = (log * (place + 1)).exp().to(state.dtype)[..., None]
    out = (q @ k.mT * stays) @ v + (q * before @ state).to(q.dtype)
    if lengths is None:
        kept = stays[:, -1, :, None]
        whole = before[:, -1:]
    else:
        ends = torch.tensor(lengths, device=q.device)[:, None, None]
        left = ends - 1 - place  # [B, 1, L]: tokens between this one and the end of its row
        kept = (log * left.clamp(min=0)).exp().where(left >= 0, 0.0)[..., None]
        whole = (log * ends).exp().to(state.dtype)[..., None]
    return out, state * whole + (k * kept).to(state.dtype).mT @ v.to(state.dtype)


class Retention(nn.Module):
    """Multi-scale retention with a gate (section 2.2, eq. 8): a core that stands in a block where attention stands.

    heads      head h keeps γ = 1 - 2^(-5 - h) of its state at every token
    value_dim  width of a head's values (default: twice a head's width, so that o is [2 · width, width])
    rotary     turns q and k, the paper's e^(inθ)

    What a head gives is divided by √Σ γ^i over what it has read (the paper's second normalisation), and by its own
    root mean square (its GroupNorm), which makes the other two of no effect. Shapes: x [T, width] -> [T, width].
    """

    recurrent = True  # it keeps a state, and no past that could be taken back

    def __init__(
        self,
        width: int,
        *,
        heads: int,
        rotary: Rotary,
        value_dim: int | None = None,
        eps: float = 1e-6,
        bias: bool = False,
    ):
        super().__init__()
        if width % heads:
            raise ValueError(f"{heads} heads do not divide a width of {width}")
        self.heads, self.head_dim = heads, width // heads
        self.value_dim = 2 * self.head_dim if value_dim is None else value_dim
        self.q = Linear(width, width, bias=bias)
        self.k = Linear(width, width, bias=bias)
        self.v = Linear(width, heads * self.value_dim, bias=bias)
        self.gate = Linear(width, heads * self.value_dim, bias=bias)
        self.o = Linear(heads * self.value_dim, width, bias=bias)
        self.rotary, self.eps = rotary, eps
        self.path = ""  # where the cache keeps this part's state; given once by the network that it stands in

    def decay(self, like: Tensor) -> Float[Tensor, " H"]:
        """γ of each head, in float32 at least."""
        exact = torch.float64 if like.dtype == torch.float64 else torch.float32
        return 1 - 2.0 ** (-5 - torch.arange(self.heads, dtype=exact, device=like.device))

    def forward(self, x: Float[Tensor, "T D"], step: Step) -> Float[Tensor, "T D"]:
        q, k = (self.rotary(part(x, step).unflatten(-1, (self.heads, -1)), step) for part in (self.q, self.k))
        v = self.v(x, step).unflatten(-1, (self.heads, -1))
        mixed = step.cache.recur(self.path, self._run, (q, k * self.head_dim**-0.5, v), step)
        read = step.fact(("read", self.heads, x.dtype), lambda: self._read(x, step))
        normed = F.rms_norm(mixed / read, (self.value_dim,), eps=self.eps)
        return self.o(F.silu(self.gate(x, step)) * normed.flatten(-2), step)

    def _run(
        self, given: Sequence[Tensor], lengths: Sequence[int] | None, state: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        q, k, v = (t.transpose(1, 2) for t in given)
        out, state = retain(q, k, v, self.decay(q), lengths=lengths, state=state, size=CHUNK)
        return out.transpose(1, 2), state

    def _read(self, x: Tensor, step: Step) -> Float[Tensor, "T H 1"]:
        """√Σ γ^i over the tokens up to each one's position."""
        decay = self.decay(x)
        left = decay ** (step.positions[:, None] + 1)
        return ((1 - left) / (1 - decay)).sqrt().to(x.dtype)[..., None]
