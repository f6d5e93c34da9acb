"""Labels of texts and of words, learned by a head at the network's end (Devlin et al., arXiv 1810.04805, section 4).

    single      cross-entropy over the labels
    multi       binary cross-entropy, the mean over the labels
    regression  squared error, the mean over the numbers

With an auxiliary loss the words of the text are learned beside its label, L = L_label + λ · L_words, where L_words is the
mean over a text's words (Radford et al., "Improving Language Understanding by Generative Pre-Training", 2018, equation 5;
λ = 0.5 there, and the mean over each text as in the authors' code). So a row's loss does not depend on the rows beside it,
and accumulated batches are one big batch. It is no part of the validation loss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from groundup.adapting import with_labels
from groundup.core.errors import UsageError
from groundup.core.labels import Labels, Problem
from groundup.data.encode import EncodedRows, encode_all
from groundup.data.kinds import Row
from groundup.data.labelled import LABELLED, labels_in, target
from groundup.data.rows import Dataset
from groundup.inference.classify import judged
from groundup.inputs.tokenizer import Encoded, Tokenizer
from groundup.model import Model
from groundup.nn.heads import head_of
from groundup.nn.stack import Decoder, Encoder
from groundup.training.objective import Objective, scored


@dataclass(frozen=True)
class Judged(Encoded):
    """A row and what shall be said of it: a number a label, for the whole or (with `places`) for each of these tokens."""

    targets: list[list[float]]
    places: list[int] | None = None


def classify(labels: Labels, *, auxiliary: float = 0.0, smoothing: float = 0.0) -> Objective:
    """The objective for a head with these labels.

    auxiliary  the weight of the loss on the text's own words, in training (a decoder's)
    smoothing  of single labels, in training
    """
    if auxiliary < 0:
        raise UsageError(f"auxiliary is {auxiliary:g}: give a weight of 0 or more")
    loss = partial(label_loss, labels=labels, auxiliary=auxiliary, smoothing=smoothing)
    name = f"{labels.problem} labels" + (f" + {auxiliary:g} words" if auxiliary else "")
    encode: Callable[..., EncodedRows] = partial(encode_labelled, labels=labels)
    return Objective(name, encode, loss, lambda row: len(row.targets))


def encode_labelled(dataset: Dataset, tokenizer: Tokenizer, max_tokens: int, *, labels: Labels) -> EncodedRows:
    """All rows of texts with labels, or of words with tags, as `Judged`."""
    return encode_all(dataset, tokenizer, max_tokens, each=partial(_row, labels=labels), kinds=LABELLED)


def _row(row: Row, tokenizer: Tokenizer, labels: Labels) -> Encoded:
    if "tags" in row:
        ids, places = tokenizer.of_words(row["tokens"])
        targets = [
            target(tag, labels, f"the word {word!r}") for word, tag in zip(row["tokens"], row["tags"], strict=True)
        ]
        return Judged(ids, [True] * len(ids), targets, places)
    ids = tokenizer.encode(row["text"])
    if not ids:
        raise UsageError("The text gives no tokens.")
    return Judged(ids, [True] * len(ids), [target(row["label"], labels, "The row")])


def label_loss(
    network: Decoder,
    rows: Sequence[Judged],
    *,
    labels: Labels,
    auxiliary: float = 0.0,
    smoothing: float = 0.0,
    adapter: str | None = None,
    device: torch.device | str = "cpu",
) -> tuple[Float[Tensor, ""], int]:
    """The summed loss of the labels of these rows, and of how many texts or words it is."""
    ids = [row.ids for row in rows]
    places = [row.places or [] for row in rows] if labels.level == "token" else None
    said, x, step, own = judged(network, ids, places, adapter=adapter, device=device)
    said = said if said.dtype == torch.float64 else said.float()
    wanted = torch.tensor([t for row in rows for t in row.targets], device=device, dtype=said.dtype)
    loss = judged_loss(said, wanted, labels, smoothing if network.training else 0.0)
    if auxiliary and network.training:
        assert network.head is not None
        at = [begin + i for begin, row in zip(own, ids, strict=True) for i in range(len(row) - 1)]
        if at:
            index = torch.tensor(at, device=device)
            words = torch.tensor([id for row in ids for id in row[1:]], device=device)
            each = [len(row.targets) / (len(row.ids) - 1) for row in rows for _ in row.ids[1:]]
            shares = torch.tensor(each, device=device)
            told = scored(network.head, x.index_select(0, index), words, step.take(index), shares=shares)
            loss = loss + auxiliary * told
    return loss, len(wanted)


def judged_loss(
    said: Float[Tensor, "N K"], wanted: Float[Tensor, "N K"], labels: Labels, smoothing: float = 0.0
) -> Float[Tensor, ""]:
    """The summed loss of a head's scores."""
    if labels.problem == "single":
        return F.cross_entropy(said, wanted.argmax(1), reduction="sum", label_smoothing=smoothing)
    if labels.problem == "multi":
        return F.binary_cross_entropy_with_logits(said, wanted, reduction="sum") / len(labels.names)
    return F.mse_loss(said, wanted, reduction="sum") / len(labels.names)


def headed(
    model: Model, dataset: Dataset, problem: Problem | None, *, auxiliary: float, seed: int, say: Callable[[str], None]
) -> Model:
    """The model with a head for these rows' labels: its own where that has them all, else a fresh one.

    Raises UsageError for an auxiliary loss on words where the network has no head for what follows.
    """
    wanted = labels_in(dataset, problem)
    if auxiliary and (isinstance(model.network, Encoder) or getattr(model.network, "head", None) is None):
        raise UsageError(f"auxiliary: {model.origin.name} has no head that says which word follows; leave it out")
    now = model.config.labels
    if now is not None and now.serve(wanted):
        say(f"going on with the model's own head for {_named(now)}")
        return model
    made = with_labels(model, wanted, seed=seed, words=auxiliary > 0)
    count = sum(p.numel() for p in head_of(made.network).values())
    say(f"a fresh head for {_named(wanted)}: {count:,} trained numbers beside the method's")
    return made


def _named(labels: Labels) -> str:
    shown = ", ".join(labels.names[:6]) + (" ..." if labels.names[6:] else "")
    return f"{len(labels.names)} {labels.problem} label{'s' * (len(labels.names) > 1)} ({shown})"
