"""How likely a network finds given texts: for perplexity, validation loss, and choosing among continuations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor, nn

from groundup.inputs.tokenizer import Encoded
from groundup.nn.cache import Fresh, Shared
from groundup.nn.step import Step
from groundup.peft.front import lay, length
from groundup.peft.mixture import mixture

TOKENS = 4096  # tokens of a call, at most; a longer row comes alone
CHUNK = 256  # predictions scored at once: 50 MB of scores for a vocabulary of 49,152
SHARED = 8  # shared tokens from which computing them once pays


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
    """`nll` of each row on its own; under a mixture of prompts, of the sum of what its prompts give."""
    mixed = mixture(network, adapter)
    if mixed is not None:
        apart = [nll_each(network, rows, adapter=name, device=device, tokens=tokens) for name in mixed[0]]
        given = torch.tensor([[s for s, _ in each] for each in apart], dtype=torch.float64)
        together = -torch.logsumexp(mixed[1].double().cpu()[:, None] - given, 0)
        return [(s, n) for s, (_, n) in zip(together.tolist(), apart[0], strict=True)]
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
    call = lay_trained(network, rows, adapter=adapter, device=device)
    sums = torch.zeros(len(rows), dtype=torch.float64)
    x = network.run(call.ids, call.step).index_select(0, call.at)  # type: ignore[operator]
    for i in range(0, len(call.at), CHUNK):
        logits = network.head(x[i : i + CHUNK], call.step.take(call.at[i : i + CHUNK]))  # type: ignore[operator]
        losses = F.cross_entropy(logits.float(), call.wanted[i : i + CHUNK], reduction="none")
        sums.index_add_(0, torch.tensor(call.owner[i : i + CHUNK]), losses.double().cpu())
    return sums.tolist()


@dataclass(frozen=True)
class Call:
    """Rows laid end to end, what they share computed once, and which places predict a trained token.

    ids [T]; at [N] the places whose next token is trained, wanted [N] that token, owner: the row that each belongs to
    """

    ids: Int[Tensor, " T"]
    step: Step
    at: Int[Tensor, " N"]
    wanted: Int[Tensor, " N"]
    owner: list[int]


def lay_trained(
    network: nn.Module, rows: Sequence[Encoded], *, adapter: str | None = None, device: torch.device | str = "cpu"
) -> Call:
    """One call of a decoder on these rows.

        rows                 s s s s a a A A      s s s s b B B B       small: given, capitals: trained
        what they share      s s s s                                    computed once a batch, as row 0
        what follows it              a a A A              b B B B
        at                             ^ ^                ^ ^ ^

    What an adapter puts before a row stands before the shared part, and is computed once too.
    """
    shared = shared_prefix([r.ids for r in rows], [r.trained for r in rows]) if len(rows) > 1 else 0
    once = len(rows) > 1 and shared + length(network, adapter) >= SHARED
    shared = shared if once else 0
    parts = [r.ids[shared:] for r in rows]
    if once:
        parts.insert(0, rows[0].ids[:shared])
    ids, step, own = lay(network, parts, Shared() if once else Fresh(), adapters=adapter, device=device)
    at: list[int] = []
    wanted: list[int] = []
    owner: list[int] = []
    for number, (row, begin) in enumerate(zip(rows, own[1:] if once else own, strict=True)):
        places = [t for t, trains in enumerate(row.trained) if trains and t]
        at += [begin - shared + t - 1 for t in places]
        wanted += [row.ids[t] for t in places]
        owner += [number] * len(places)
    return Call(ids, step, torch.tensor(at, device=device), torch.tensor(wanted, device=device), owner)


def shared_prefix(rows: Sequence[Sequence[int]], trained: Sequence[Sequence[bool]] | None = None) -> int:
    """How many leading tokens all rows have in common, and so could be computed once for the batch.

    With `trained` (a mask a row) the prefix ends before the token that predicts the first trained one (token t is
    predicted at t - 1), so that every row makes all its own predictions. Without, one token of each row stays out of
    it. One row shares with nobody: 0.
    """
    if len(rows) < 2:
        return 0
    columns = enumerate(zip(*rows, strict=False))
    shared = next((at for at, column in columns if len(set(column)) > 1), min(map(len, rows)))
    if trained is None:
        return max(0, min(shared, min(map(len, rows)) - 1))
    for mask in trained:
        predicted = next((at for at, flag in enumerate(mask) if flag and at), len(mask))
        shared = min(shared, max(0, predicted - 1))
    return shared
