"""A trained model made into one of another shape, which learns on from there."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from groundup import models
from groundup.core.errors import UsageError
from groundup.core.files import size
from groundup.evaluation.cost import cost
from groundup.model import Model
from groundup.nn.attention import Attention
from groundup.nn.grouped import grouped

KEY = "num_key_value_heads"


def convert(
    model: Model,
    *,
    kv_heads: int,
    pool: str = "mean",
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> Model:
    """The model with fewer key and value heads, which groups of its query heads share (arXiv 2305.13245).

    kv_heads  how many: as many as there are changes nothing, 1 is multi-query attention
    pool      what becomes of a group's heads: their mean, the first, or random numbers (of `seed`)

    Its answers are worse until it has learned on: the paper's models read 5 % of their pretraining again. The notes say
    what it costs, and how many bytes of keys and values a token leaves in the cache. Raises UsageError for a family
    whose files cannot say it, and for a number of heads that is no divisor.
    """
    if KEY not in type(model.config).model_fields:
        can = [name for name in models.FAMILIES if KEY in getattr(models, name).Config.model_fields]
        raise UsageError(
            f"a {model.config.family()} has a key head for each head; families that share them: {', '.join(can)}"
        )
    if model.adapter is not None or model.methods:
        raise UsageError(
            "an adapter is made for the heads that are there: groundup merge first, or convert the base alone"
        )
    network = grouped(model.network, kv_heads, pool=pool, seed=seed)
    text = f"{model.origin.fingerprint} {kv_heads} {pool} {seed}"
    name = f"{model.origin.name} with {kv_heads} key heads"
    origin = replace(model.origin, name=name, path=Path(), identity=hashlib.sha256(text.encode()).hexdigest())
    made = replace(model, network=network, config=model.config.model_copy(update={KEY: kv_heads}), origin=origin)
    before, after = (size(kept_per_token(each.network)) for each in (model, made))
    lost = cost(model, made, on_progress=on_progress)
    note = f"{kv_heads} key heads by {pool}: {before} of keys and values a token before, {after} after; {lost}"
    return replace(made, notes=[*model.notes, note])


def kept_per_token(network: torch.nn.Module) -> int:
    """Bytes that a token leaves in the cache: 2 · layers · key heads · width of a head · bytes a number."""
    parts = [part for part in network.modules() if isinstance(part, Attention) and not part.cross]
    each = next(network.parameters()).element_size()
    return sum(2 * part.kv_heads * part.head_dim * each for part in parts)
