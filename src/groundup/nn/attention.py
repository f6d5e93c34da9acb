"""Attention: what a token takes from the others, weighted by how well its query fits their keys.

`attend` is the mathematics in six lines; `attend_fused` gives the same numbers through PyTorch's kernel, which never
forms the square of weights, or for training on short rows by `_Short`, which keeps that square for a quicker way back.
`tiled.attend_tiled` is the third way, for long rows whose scores have a bias or a cap: no square either.
`Attention` is the part around them: projections, positions, cache.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from groundup.kernels.plan import Hole, Plan, Register
from groundup.nn.linear import Linear
from groundup.nn.norms import RMSNorm
from groundup.nn.positions import Alibi, Bias, Rotary
from groundup.nn.step import Keys, Step

SHORT = 128 * 128  # scores a head up to which a CPU trains faster when it keeps the weights (1.5 to 9 times, measured)


def attend(
    q: Float[Tensor, "B H L Dh"],
    k: Float[Tensor, "B Hkv S Dh"],
    v: Float[Tensor, "B Hkv S Dv"],
    *,
    scale: float,
    mask: Bool[Tensor, "#B #L S"] | None = None,
    bias: Float[Tensor, "#B H #L S"] | None = None,
    cap: float | None = None,
    see: Callable[[Float[Tensor, "B H L S"]], object] | None = None,
) -> Float[Tensor, "B H L Dv"]:
    """softmax(scale · q kᵀ + bias) v, row by row (Vaswani et al., arXiv 1706.03762, eq. 1).

    q  [B, H, L, Dh]    one query for each of L tokens and H heads
    k  [B, Hkv, S, Dh]  H / Hkv heads share each key head (arXiv 2305.13245); S keys
    mask                True where a token may look; a token that may look nowhere gets zeros
    cap                 scores are squashed into ±cap by cap · tanh(s / cap) (Gemma 2)
    see                 is shown the weights, how much each query takes of each key
    """
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    scores = q @ k.transpose(-1, -2) * scale  # [B, H, L, S]
    if cap is not None:
        scores = cap * torch.tanh(scores / cap)
    if bias is not None:
        scores = scores + bias
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None], -math.inf)
    weights = torch.softmax(scores, dim=-1)
    if mask is not None:
        weights = weights.masked_fill(~mask[:, None], 0.0)  # a row of -inf is NaN to softmax
    if see is not None:
        see(weights)
    return weights @ v


def attend_fused(
    q: Float[Tensor, "B H L Dh"],
    k: Float[Tensor, "B Hkv S Dh"],
    v: Float[Tensor, "B Hkv S Dv"],
    *,
    scale: float,
    causal: bool = False,
    mask: Bool[Tensor, "#B #L S"] | None = None,
    bias: Float[Tensor, "#B H #L S"] | None = None,
) -> Float[Tensor, "B H L Dv"]:
    """The same numbers as `attend`, in one kernel. `causal` is the triangle for L = S, and needs no mask."""
    heads, kv_heads, length = q.shape[1], k.shape[1], q.shape[2]
    grouped = heads != kv_heads
    if length * k.shape[2] <= SHORT and q.requires_grad and q.device.type == "cpu" and bias is None:
        if causal:
            mask = torch.ones(1, length, length, dtype=torch.bool, device=q.device).tril()
        return _Short.apply(q, k, v, mask, scale)
    if grouped and length == 1 and bias is None:
        # One query a row: the heads that share a key head become its queries, a view instead of copied keys.
        q = q.view(q.shape[0], kv_heads, heads // kv_heads, q.shape[3])
    elif grouped:
        k, v = _for_each_head(k, heads // kv_heads), _for_each_head(v, heads // kv_heads)
    where: Tensor | None = None
    if bias is not None:
        where = bias if mask is None else bias.masked_fill(~mask[:, None], -math.inf)
        where = where.to(q.dtype)
    elif mask is not None:
        where = mask[:, None]
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=where, is_causal=causal and length > 1, scale=scale)
    return out.reshape(out.shape[0], heads, length, v.shape[3])


class _Short(torch.autograd.Function):
    """Attention that keeps its weights w for the way back. Heads that share a key head stand below each other.

    With scores s = scale · q kᵀ and dw = g vᵀ:  ds = w (dw - sum(dw w)),  dq = scale · ds k,  dk = scale · dsᵀ q,
    dv = wᵀ g.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
        batch, heads, length, _ = q.shape
        kv_heads, size = k.shape[1:3]
        q, k, v = (t.reshape(batch * kv_heads, -1, t.shape[3]) for t in (q, k, v))
        scores = torch.bmm(q, k.mT).mul_(scale)
        square = scores.view(batch, kv_heads, heads // kv_heads, length, size)
        if mask is not None:
            hidden = ~mask[:, None, None]
            weights = torch.softmax(square.masked_fill_(hidden, -math.inf), dim=-1).masked_fill_(hidden, 0.0)
        else:
            weights = torch.softmax(square, dim=-1)
        w = weights.view(scores.shape)
        ctx.save_for_backward(q, k, v, w)
        ctx.scale, ctx.heads, ctx.batch = scale, heads, batch
        return torch.bmm(w, v).view(batch, heads, length, v.shape[2])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, w = ctx.saved_tensors
        g = grads[0].reshape(*q.shape[:2], v.shape[2])
        ds = torch._softmax_backward_data(torch.bmm(g, v.mT), w, -1, w.dtype).mul_(ctx.scale)
        dq = torch.bmm(ds, k).view(ctx.batch, ctx.heads, -1, q.shape[2])
        dk, dv = (t.view(ctx.batch, -1, *t.shape[1:]) for t in (torch.bmm(ds.mT, q), torch.bmm(w.mT, g)))
        return dq, dk, dv, None, None


def _for_each_head(x: Float[Tensor, "B Hkv S Dh"], groups: int) -> Float[Tensor, "B H S Dh"]:
    # expanding makes the backward pass a plain sum; repeat_interleave's would scatter
    return x[:, :, None].expand(-1, -1, groups, -1, -1).flatten(1, 2)


class Attention(nn.Module):
    """Self-attention, or cross-attention to an encoder's memory, with one key head for every `heads / kv_heads` heads.

    heads, kv_heads   number of query heads, and of key and value heads (1: multi-query, = heads: multi-head)
    head_dim          width of one head (default width / heads)
    memory_width      width of the memory of cross-attention (None: self-attention)
    causal            a token sees itself and what stands before it in its row
    window            ... and no further back than `window` - 1 tokens
    rotary, bias      positions: turned into q and k, or added to the scores as a function of positions
    scale             of the scores (default head_dim ** -0.5; T5 has 1)
    cap               of the scores (see `attend`)
    clip              what q, k and v give is cut off at ±clip
    q_norm, k_norm    norms over each head's q and k, before they turn (Henry et al., arXiv 2010.04245)

    Shapes: x [T, width] -> [T, width].
    """

    def __init__(
        self,
        width: int,
        *,
        heads: int,
        kv_heads: int | None = None,
        head_dim: int | None = None,
        memory_width: int | None = None,
        causal: bool = False,
        window: int | None = None,
        rotary: Rotary | None = None,
        score_bias: Bias | None = None,
        scale: float | None = None,
        cap: float | None = None,
        clip: float | None = None,
        q_norm: nn.Module | None = None,
        k_norm: nn.Module | None = None,
        bias: bool = True,
        out_bias: bool | None = None,
    ):
        super().__init__()
        kv_heads = heads if kv_heads is None else kv_heads
        if heads % kv_heads:
            raise ValueError(f"{heads} heads cannot share {kv_heads} key heads evenly")
        head_dim = width // heads if head_dim is None else head_dim
        source = width if memory_width is None else memory_width
        self.heads, self.kv_heads, self.head_dim = heads, kv_heads, head_dim
        self.cross, self.causal, self.window = memory_width is not None, causal, window
        self.scale, self.cap, self.clip = head_dim**-0.5 if scale is None else scale, cap, clip
        self.q = Linear(width, heads * head_dim, bias=bias)
        self.k = Linear(source, kv_heads * head_dim, bias=bias)
        self.v = Linear(source, kv_heads * head_dim, bias=bias)
        self.o = Linear(heads * head_dim, width, bias=bias if out_bias is None else out_bias)
        self.q_norm, self.k_norm = q_norm, k_norm
        self.rotary = rotary  # no parameters of its own
        self._score_bias = (score_bias,)  # in a tuple: a bias with parameters is registered by the stack that owns it
        self.path = ""  # where the cache keeps this part's keys; given once by the network that it stands in

    @property
    def score_bias(self) -> Bias | None:
        """What is added to the scores as a function of positions."""
        return self._score_bias[0]

    def forward(self, x: Float[Tensor, "T D"], step: Step) -> Float[Tensor, "T D"]:
        q = self._heads(self.q(x, step), self.heads)
        if self.q_norm is not None:
            q = self.q_norm(q, step)
        if self.rotary is not None:
            q = self.rotary(q, step)
        keys = self._remember(step) if self.cross else self._write(x, step)
        mixed = keys.attend(
            q,
            step,
            causal=self.causal,
            scale=self.scale,
            bias=self._score_bias[0],
            window=self.window,
            cap=self.cap,
            path=self.path,
        )
        if step.apart and self.path in step.apart:
            mixed = self._beside(mixed, q, step)
        return self.o(mixed.flatten(-2), step)

    def lower(self, plan: Plan, x: Register) -> Register:
        if self.cross or not self.causal:
            raise Hole("a step that looks at more than its own row's past")
        if type(self.score_bias) not in (type(None), Alibi) or type(self.rotary) not in (type(None), Rotary):
            raise Hole("positions of another kind")
        norms = [norm for norm in (self.q_norm, self.k_norm) if norm is not None]
        if norms and (len(norms) == 1 or any(type(n) is not RMSNorm or n.eps != norms[0].eps for n in norms)):
            raise Hole("other norms over heads")
        bias, q_norm, k_norm = self.score_bias, self.q_norm, self.k_norm
        q, k, v = (plan.lower(part, x, part.weight.shape[0]) for part in (self.q, self.k, self.v))
        mixed = plan.attend(
            q, k, v, self.path, heads=self.heads, kv_heads=self.kv_heads, head_dim=self.head_dim, scale=self.scale,
            window=self.window, cap=self.cap, clip=self.clip, rotary=self.rotary,
            q_gain=q_norm.gain if isinstance(q_norm, RMSNorm) else None,
            k_gain=k_norm.gain if isinstance(k_norm, RMSNorm) else None,
            eps=q_norm.eps if isinstance(q_norm, RMSNorm) else 0.0,
            slopes=bias.slopes if isinstance(bias, Alibi) else None,
        )  # fmt: skip
        return plan.lower(self.o, mixed, self.o.weight.shape[0])

    def _write(self, x: Float[Tensor, "T D"], step: Step) -> Keys:
        k, v = self._heads(self.k(x, step), self.kv_heads), self._heads(self.v(x, step), self.kv_heads)
        if self.k_norm is not None:
            k = self.k_norm(k, step)
        if self.rotary is not None:
            k = self.rotary(k, step)
        return step.cache.write(self.path, k, v, step)

    def _remember(self, step: Step) -> Keys:
        memory = step.memory
        if memory is None:  # the rows joined in an earlier call
            return step.cache.read(self.path, step)
        k, v = (self._heads(part(memory.x, memory.step), self.kv_heads) for part in (self.k, self.v))
        if self.k_norm is not None:
            k = self.k_norm(k, memory.step)
        return step.cache.fill(self.path, k, v, step)

    def _heads(self, x: Float[Tensor, "T HDh"], heads: int) -> Float[Tensor, "T H Dh"]:
        x = x if self.clip is None else x.clamp(-self.clip, self.clip)
        return x.unflatten(-1, (heads, self.head_dim))

    def _beside(
        self, mixed: Float[Tensor, "T H Dh"], q: Float[Tensor, "T H Dh"], step: Step
    ) -> Float[Tensor, "T H Dh"]:
        """Attention to a few learned keys with a softmax of their own, added (Zhang et al., arXiv 2303.16199, eq. 7)."""
        weights = None if step.taps is None else step.taps.weights
        for i, beside in enumerate(step.apart[self.path]):
            see = None if weights is None else partial(weights.__setitem__, f"{self.path}:apart.{i}")
            rows = q if beside.at is None else q.index_select(0, beside.at)
            k, v = (t.to(q.dtype).transpose(0, 1)[None] for t in (beside.k, beside.v))
            seen = attend(rows.transpose(0, 1)[None], k, v, scale=self.scale, see=see)[0].transpose(0, 1)
            seen = seen * beside.gate.to(q.dtype)[:, None]
            mixed = mixed + seen if beside.at is None else mixed.index_add(0, beside.at, seen)
        return mixed
