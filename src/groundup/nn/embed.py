"""The front of a text model: tokens, and where a family has them, positions, token types and a norm."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from groundup.nn.linear import Embedding
from groundup.nn.positions import Sinusoidal
from groundup.nn.step import Step


class Embed(nn.Module):
    """tokens[id] · scale + positions[position] + types[type], then the norm.

    Positions are learned (an Embedding) or waves (Sinusoidal). Vectors of `step.spliced` stand in for token embeddings
    (the embedding seam of soft prompts). Token types are 0 where the step names none. `first_position` is the row of the
    learned table that a row's first token reads (RoBERTa's begins behind its padding). Shapes: ids [T] -> [T, D].
    """

    def __init__(
        self,
        tokens: Embedding,
        *,
        positions: Embedding | Sinusoidal | None = None,
        types: Embedding | None = None,
        norm: nn.Module | None = None,
        scale: float = 1.0,
        first_position: int = 0,
    ):
        super().__init__()
        self.tokens = tokens
        self.positions = positions
        self.types = types
        self.norm = norm
        self.scale = scale
        self.first_position = first_position

    def forward(self, ids: Int[Tensor, " T"], step: Step) -> Float[Tensor, "T D"]:
        x = self.tokens(ids, step)
        if self.scale != 1.0:
            x = x * self.scale
        if step.spliced is not None:
            x = x.index_copy(0, step.spliced.at, step.spliced.x.to(x.dtype))
        if self.positions is not None:
            places = step.positions + self.first_position if self.first_position else step.positions
            x = x + self.positions(places, step).to(x.dtype)
        if self.types is not None:
            types = torch.zeros_like(ids) if step.types is None else step.types
            x = x + self.types(types, step)
        return x if self.norm is None else self.norm(x, step)
