"""Masked words, for networks that see both ways (Devlin et al., arXiv 1810.04805, section 3.1).

    given        [CLS] the cat sat on the mat [SEP]
    chosen                 ^^^            ^^^           15 % of a row's words, never a special token
    read         [CLS] the [MASK] sat on the dog [SEP]  8 of 10 masked, 1 of 10 another word, 1 of 10 as it was
    learned                cat            mat

In training every reading of a row chooses anew, by the generator whose state a run saves, so that a resumed run goes on
to the bit. In validation a row is disturbed in the same way each time.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from groundup.core.errors import UsageError
from groundup.data.encode import EncodedRows, encode_all
from groundup.data.kinds import Row
from groundup.data.rows import Dataset
from groundup.data.texts import said
from groundup.inputs.tokenizer import Encoded, Tokenizer
from groundup.nn.cache import Fresh
from groundup.nn.stack import Encoder
from groundup.peft.front import lay
from groundup.training.objective import Objective, scored

SHARE = 0.15
MASK, OTHER = 0.8, 0.1  # of the chosen words; what is left stays as it was


def masked(tokenizer: Tokenizer, *, share: float = SHARE, smoothing: float = 0.0) -> Objective:
    """The objective for this tokenizer. UsageError where it has no mask.

    share      of a row's words that are chosen: that many exactly, rounded, and at least one
    smoothing  as in `scored`, in training alone
    """
    if tokenizer.mask_id is None:
        raise UsageError(f"masked words need a mask, and {tokenizer.source} names no mask_token")
    if not 0 < share < 1:
        raise UsageError(f"the share of masked words is {share:g}: give one between 0 and 1")
    loss = partial(
        masked_loss, mask=tokenizer.mask_id, vocabulary=tokenizer.vocab_size, share=share, smoothing=smoothing
    )
    return Objective("masked", encode_masked, loss, partial(chosen, share=share))


def encode_masked(dataset: Dataset, tokenizer: Tokenizer, max_tokens: int) -> EncodedRows:
    """All that each row says as one text, framed; `trained` marks what may be chosen."""
    return encode_all(dataset, tokenizer, max_tokens, each=words_of)


def words_of(row: Row, tokenizer: Tokenizer) -> Encoded:
    """One row's ids, with the places of its words marked. UsageError for a row without words."""
    found = marked(tokenizer.encode(said(row)), tokenizer)
    if not any(found.trained):
        raise UsageError("The row holds no words.")
    return found


def marked(ids: list[int], tokenizer: Tokenizer) -> Encoded:
    """The ids, with everything that is no special token marked as one that may be chosen."""
    special = frozenset(tokenizer.control.values())
    return Encoded(ids, [id not in special for id in ids])


def chosen(row: Encoded, share: float = SHARE) -> int:
    """How many words of a row are chosen."""
    return max(1, round(share * sum(row.trained)))


def disturbed(
    row: Encoded, *, mask: int, vocabulary: int, share: float = SHARE, generator: torch.Generator | None = None
) -> tuple[list[int], list[int]]:
    """The ids as the network reads them, and the places that were chosen (in order).

    generator: None draws from PyTorch's own state.
    """
    words = [at for at, word in enumerate(row.trained) if word]
    picks = torch.randperm(len(words), generator=generator)[: chosen(row, share)].tolist()
    fates = torch.rand(len(picks), generator=generator).tolist()
    others = torch.randint(vocabulary, (len(picks),), generator=generator).tolist()
    ids, places = list(row.ids), sorted(words[pick] for pick in picks)
    for at, fate, other in zip(places, fates, others, strict=True):
        if fate < MASK:
            ids[at] = mask
        elif fate < MASK + OTHER:
            ids[at] = other
    return ids, places


def masked_loss(
    network: Encoder,
    rows: Sequence[Encoded],
    *,
    mask: int,
    vocabulary: int,
    share: float = SHARE,
    smoothing: float = 0.0,
    adapter: str | None = None,
    device: torch.device | str = "cpu",
) -> tuple[Float[Tensor, ""], int]:
    """The summed negative log-probability (in nats) of the chosen words of these rows, and how many they are."""
    read: list[list[int]] = []
    places: list[list[int]] = []
    for row in rows:
        ids, at = disturbed(
            row, mask=mask, vocabulary=vocabulary, share=share, generator=None if network.training else _own(row)
        )
        read.append(ids)
        places.append(at)
    wanted = [row.ids[p] for row, at in zip(rows, places, strict=True) for p in at]
    loss = words_loss(
        network, read, places, torch.tensor(wanted, device=device), adapter=adapter, device=device,
        smoothing=smoothing if network.training else 0.0,
    )  # fmt: skip
    return loss, len(wanted)


def words_loss(
    network: Encoder,
    rows: Sequence[Sequence[int]],
    places: Sequence[Sequence[int]],
    wanted: Int[Tensor, " N"],
    *,
    adapter: str | None = None,
    device: torch.device | str = "cpu",
    smoothing: float = 0.0,
) -> Float[Tensor, ""]:
    """The summed cross-entropy of `wanted` at these places of these rows; the head sees no other place."""
    assert network.head is not None
    ids, step, own = lay(network, rows, Fresh(), adapters=adapter, device=device)
    at = torch.tensor([begin + p for begin, row in zip(own, places, strict=True) for p in row], device=device)
    x = network.run(ids, step).index_select(0, at)
    return scored(network.head, x, wanted, step.take(at), smoothing)


def _own(row: Encoded) -> torch.Generator:
    """Chance that depends on the row alone."""
    return torch.Generator().manual_seed(zlib.crc32(repr(row.ids).encode()))
