"""How likely a network finds given texts: for perplexity, validation loss, and choosing among continuations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from groundup.inference.decode import shared_beginning
from groundup.inputs.tokenizer import Encoded
from groundup.nn.cache import Fresh, Shared
from groundup.nn.step import Step

TOKENS = 4096  # tokens of a call, at most; a longer row comes alone
CHUNK = 256  # predictions scored at once: 50 MB of scores for a vocabulary of 49,152


def nll(
    network: nn.Module,
    rows: Sequence[Encoded],
    *,
    adapter: str | None = None,
    device: torch.device | str = "cpu",
    tokens: int = TOKENS,
) -> tuple[float, int]:
    """The summed negative log-probability (in nats) of the trained tokens of these rows, and how many they are.

    A row's first token has nothing before it and is never counted. Rows are read side by side, up to `tokens` a call.
    """
    each = nll_each(network, rows, adapter=adapter, device=device, tokens=tokens)
    return sum(s for s, _ in each), sum(n for _, n in each)


def logprob(
    network: nn.Module,
    prompt: list[int],
    continuations: Sequence[list[int]],
    *,
    adapter: str | None = None,
    device: torch.device | str = "cpu",
) -> list[float]:
    """The log-probability (in nats) of each continuation after the prompt, which is read once."""
    rows = [Encoded([*prompt, *c], [False] * len(prompt) + [True] * len(c)) for c in continuations]
    return [-s for s, _ in nll_each(network, rows, adapter=adapter, device=device)]


@torch.inference_mode()
def nll_each(
    network: nn.Module,
    rows: Sequence[Encoded],
    *,
    adapter: str | None = None,
    device: torch.device | str = "cpu",
    tokens: int = TOKENS,
) -> list[tuple[float, int]]:
    """`nll` of each row on its own."""
    was = network.training
    network.eval()
    try:
        found: list[tuple[float, int]] = [(0.0, 0)] * len(rows)
        order = sorted((i for i, r in enumerate(rows) if any(r.trained[1:])), key=lambda i: len(rows[i].ids))
        for group in _groups(order, rows, tokens):
            sums = _scored(network, [rows[i] for i in group], adapter, device)
            for i, one in zip(group, sums, strict=True):
                found[i] = (one, sum(rows[i].trained[1:]))
        return found
    finally:
        network.train(was)


def _groups(order: Sequence[int], rows: Sequence[Encoded], tokens: int) -> Iterator[list[int]]:
    group: list[int] = []
    total = 0
    for i in order:
        if group and total + len(rows[i].ids) > tokens:
            yield group
            group, total = [], 0
        group.append(i)
        total += len(rows[i].ids)
    if group:
        yield group


def _scored(
    network: nn.Module, rows: Sequence[Encoded], adapter: str | None, device: torch.device | str
) -> list[float]:
    shared = shared_beginning([r.ids for r in rows])
    if any(any(r.trained[: shared + 1]) for r in rows):  # the shared row's own predictions would have to be counted
        shared = 0
    ids = list(rows[0].ids[:shared])
    lengths = [shared] if shared else []
    at: list[int] = []
    wanted: list[int] = []
    owner: list[int] = []
    for number, row in enumerate(rows):
        begin = len(ids) - shared  # so that token t of the row stands at begin + t
        places = [t for t, trains in enumerate(row.trained) if trains and t]
        at += [begin + t - 1 for t in places]
        wanted += [row.ids[t] for t in places]
        owner += [number] * len(places)
        ids += row.ids[shared:]
        lengths.append(len(row.ids) - shared)
    step = Step.of(lengths, Shared() if shared else Fresh(), adapters=adapter, device=device)
    sums = torch.zeros(len(rows), dtype=torch.float64)
    where, targets = torch.tensor(at, device=device), torch.tensor(wanted, device=device)
    x = network.run(torch.tensor(ids, device=device), step).index_select(0, where)  # type: ignore[operator]
    for i in range(0, len(at), CHUNK):
        logits = network.head(x[i : i + CHUNK], step.take(where[i : i + CHUNK]))  # type: ignore[operator]
        losses = F.cross_entropy(logits.float(), targets[i : i + CHUNK], reduction="none")
        sums.index_add_(0, torch.tensor(owner[i : i + CHUNK]), losses.double().cpu())
    return sums.tolist()
