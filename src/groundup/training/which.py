"""Which objective suits a model."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from groundup.core.errors import UsageError
from groundup.model import Model
from groundup.nn.stack import Encoder, EncoderDecoder
from groundup.training.classify import classify
from groundup.training.masked import masked
from groundup.training.objective import CAUSAL, Objective
from groundup.training.seq2seq import seq2seq


def objective_for(model: Model, *, smoothing: float = 0.0) -> Objective:
    """The next token for a decoder, masked words for an encoder, the completion for an encoder-decoder,
    and labels for a model that ends in a head for them.

    smoothing  of the targets, in training (see `groundup.training.objective.scored`)
    Raises UsageError for an encoder without a masked-word head, or whose tokenizer has no mask.
    """
    if isinstance(model.network, EncoderDecoder):
        return seq2seq(model.decoder_start, smoothing=smoothing)
    if model.config.labels is not None:
        return classify(model.config.labels, smoothing=smoothing)
    if model.network.head is None:
        raise UsageError(
            f"the file of {model.origin.name} holds no head, so it has no words to learn: it can `embed`, or learn rows with labels"
        )
    if isinstance(model.network, Encoder):
        return masked(model.words, smoothing=smoothing)
    return replace(CAUSAL, loss=partial(CAUSAL.loss, smoothing=smoothing)) if smoothing else CAUSAL
