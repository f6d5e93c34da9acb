"""Whole networks of blocks: a stack, and the three shapes that text models have.

Decoder          ids -> embed -> blocks -> norm -> head            (GPT-2, Llama, BLOOM)
Encoder          ids -> embed -> blocks -> norm -> head, pooler    (BERT)
EncoderDecoder   ids -> encoder -> memory;  ids, memory -> decoder -> head   (T5)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from groundup.core.errors import UsageError
from groundup.kernels.plan import Plan, Register
from groundup.nn.embed import Embed
from groundup.nn.linear import Linear
from groundup.nn.mlp import Activation
from groundup.nn.step import Memory, Step


class Stack(nn.Module):
    """embed, blocks, final norm, and the score bias that the blocks share (owned here).

    Shapes: ids [T] -> [T, D]. `recompute` keeps a block's input alone and computes the rest again in the backward
    pass (gradient checkpointing).
    """

    def __init__(
        self, embed: Embed, blocks: Sequence[nn.Module], *, norm: nn.Module | None = None, bias: nn.Module | None = None
    ):
        super().__init__()
        self.embed = embed
        self.blocks = nn.ModuleList(blocks)
        self.norm = norm
        self.bias = bias
        self.recompute = False
        self.format: torch.dtype | None = None  # of activations, where it is not the embedding's own
        self.path = ""  # where it stands in the network; given once by the network

    def run(self, ids: Int[Tensor, " T"], step: Step) -> Float[Tensor, "T D"]:
        """The hidden state of every token, after the last norm."""
        x = self.embed(ids, step)
        if self.format is not None:
            x = x.to(self.format)
        again = self.recompute and self.training
        states = None if step.taps is None else step.taps.states
        if states is not None:
            states[f"{self.path}embed"] = x
        for i, block in enumerate(self.blocks):
            x = checkpoint(block, x, step, use_reentrant=False) if again else block(x, step)
            if states is not None:
                states[f"{self.path}blocks.{i}"] = x
        if self.norm is None:
            return x
        x = self.norm(x, step)
        if states is not None:
            states[f"{self.path}norm"] = x
        return x

    def forward(self, ids: Int[Tensor, " T"], step: Step) -> Float[Tensor, "T D"]:
        return self.run(ids, step)


class Decoder(Stack):
    """A stack that ends in a score for every word of the vocabulary.

    Shapes: ids [T] -> logits [T, V], or [N, V] for the tokens `at` [N] alone.
    """

    def __init__(
        self,
        embed: Embed,
        blocks: Sequence[nn.Module],
        *,
        head: nn.Module | None,
        norm: nn.Module | None = None,
        pooler: nn.Module | None = None,
    ):
        super().__init__(embed, blocks, norm=norm)
        self.head = head
        self.pooler = pooler
        self.labels: nn.Module | None = None
        name_places(self)

    def judge(self, x: Float[Tensor, "T D"], step: Step, at: Int[Tensor, " N"]) -> Float[Tensor, "N K"]:
        """The scores of labels, from the states at these places: through the pooler where there is one."""
        if self.labels is None:
            raise UsageError("this model has no head for labels: train one on rows with labels (groundup finetune)")
        x, step = x.index_select(0, at), step.take(at)
        return self.labels(x if self.pooler is None else self.pooler(x, step), step)

    def forward(self, ids: Int[Tensor, " T"], step: Step, at: Int[Tensor, " N"] | None = None) -> Float[Tensor, "N V"]:
        if self.head is None:  # a file may hold the blocks alone
            raise UsageError("this model's file holds no head: it has hidden states to give, and no scores of words")
        x = self.run(ids, step)
        return self.head(x, step) if at is None else self.head(x.index_select(0, at), step.take(at))

    def lower(self, plan: Plan, x: Register) -> Register:
        """From what `embed` gives to the scores of every word, for one token of each row."""
        for part in (*self.blocks, self.norm):
            x = x if part is None else plan.lower(part, x)
        return plan.lower(self.head, x, self.embed.tokens.weight.shape[0])


class Encoder(Decoder):
    """A stack that sees both ways, with a head on every token and a pooler on the first of each row.

    Shapes: ids [T] -> logits [T, V]; `pool`: hidden states [T, D] -> [B, D].
    """

    def pool(self, x: Float[Tensor, "T D"], step: Step) -> Float[Tensor, "B D"]:
        """The pooler on each row's first token (BERT's [CLS])."""
        if self.pooler is None:
            raise ValueError("this network has no pooler")
        first = step.rows.row.new_tensor(step.rows.starts[:-1])
        return self.pooler(x.index_select(0, first), step.take(first))


class EncoderDecoder(nn.Module):
    """An encoder whose output the decoder's cross-attention reads.

    `encode` makes the memory; it goes into the decoder's Step of the call in which its rows join.
    Shapes: ids [T] -> logits [T, V].
    """

    def __init__(self, encoder: Stack, decoder: Stack, *, head: nn.Module, head_scale: float = 1.0):
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.head = head
        self.head_scale = head_scale
        name_places(self)

    def encode(self, ids: Int[Tensor, " S"], step: Step) -> Memory:
        return Memory(self.encoder.run(ids, step), step)

    def forward(self, ids: Int[Tensor, " T"], step: Step, at: Int[Tensor, " N"] | None = None) -> Float[Tensor, "N V"]:
        x = self.decoder.run(ids, step)
        if at is not None:
            x, step = x.index_select(0, at), step.take(at)
        if self.head_scale != 1.0:
            x = x * self.head_scale
        return self.head(x, step)


class TransformHead(nn.Module):
    """dense, activation, norm, then the scores (BERT's masked-word head). Shapes: [T, D] -> [T, V]."""

    def __init__(self, dense: Linear, act: Activation, norm: nn.Module, out: Linear):
        super().__init__()
        self.dense, self.norm, self.out = dense, norm, out
        self.act = act

    def forward(self, x: Float[Tensor, "T D"], step: Step) -> Float[Tensor, "T V"]:
        return self.out(self.norm(self.act(self.dense(x, step)), step), step)


class CappedHead(nn.Module):
    """Scores squashed into ±cap by cap · tanh(y / cap) (Gemma 2, arXiv 2408.00118, section 2). Shapes: [T, D] -> [T, V]."""

    def __init__(self, out: Linear, cap: float):
        super().__init__()
        self.out, self.cap = out, cap

    def forward(self, x: Float[Tensor, "T D"], step: Step) -> Float[Tensor, "T V"]:
        return self.cap * torch.tanh(self.out(x, step) / self.cap)

    def lower(self, plan: Plan, x: Register) -> Register:
        return plan.cap(plan.lower(self.out, x, self.out.weight.shape[0]), self.cap)


class Pooler(nn.Module):
    """tanh(dense(x)) of a row's first token (BERT), or another activation (DistilBERT). Shapes: [B, D] -> [B, D]."""

    def __init__(self, dense: Linear, act: Activation = torch.tanh):
        super().__init__()
        self.dense = dense
        self.act = act

    def forward(self, x: Float[Tensor, "B D"], step: Step) -> Float[Tensor, "B D"]:
        return self.act(self.dense(x, step))


def recurrent(network: nn.Module) -> bool:
    """Whether some core keeps a state in place of what it has read, so that tokens cannot be taken back."""
    return any(getattr(part, "recurrent", False) for part in network.modules())


def name_places(network: nn.Module) -> None:
    """Tell every core that mixes tokens where it stands, e.g. `decoder.blocks.3.attn`: the cache keeps what it remembers
    under that name.

    A stack is told what stands before its parts' names, e.g. `decoder.`.
    """
    for name, part in network.named_modules():
        if isinstance(part, Stack):
            part.path = f"{name}." if name else ""
        elif hasattr(part, "path"):
            part.path = name
