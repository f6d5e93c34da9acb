"""A head for labels at the end of a network: one linear on a text's first token, its last, or every token."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from groundup.core.labels import Labels
from groundup.nn.linear import Linear
from groundup.nn.stack import Decoder, Encoder
from groundup.nn.surgery import canonical

DEVIATION = 0.02  # of a new head's numbers, as BERT and GPT begin theirs


def end_in_labels(network: Decoder, labels: Labels, rules: Sequence[str], *, words: bool = False) -> None:
    """Let this very network end in `labels`, a linear without numbers yet; a token is judged by its own state.

    rules  the family's, which know whether the linear has a bias
    words  keep the head that scores words
    """
    biased = any("labels.bias" in line for line in rules)
    network.labels = Linear(network.embed.tokens.weight.shape[1], len(labels.names), bias=biased)
    if labels.level == "token":
        network.pooler = None
    if not words:
        network.head = None


def fill(part: nn.Module, generator: torch.Generator) -> None:
    """A part that has learned nothing: matrices from a normal distribution, biases 0."""
    for name, parameter in part.named_parameters():
        with torch.no_grad():
            if name.endswith("bias"):
                parameter.zero_()
            else:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * DEVIATION)


def spot(network: Decoder, begin: int, end: int) -> int:
    """Which place of a row from `begin` to `end` stands for the whole: the first where all see all, else the last.

    The first is a soft prompt's where there is one, as in PEFT.
    """
    return begin if isinstance(network, Encoder) else end - 1


def head_of(network: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of a head for labels, and of the pooler below it, by name; none where there is no such head."""
    if getattr(network, "labels", None) is None:
        return {}
    return {
        canonical(name).removesuffix(".values"): parameter
        for name, parameter in network.named_parameters()
        if canonical(name).startswith(("labels.", "pooler.")) and ".parts." not in name
    }
