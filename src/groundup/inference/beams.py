"""Beam search: of the few likeliest beginnings followed at once, the answer with the highest log-probability a token.

The rules are those of transformers' generate(num_beams=, length_penalty=1, early_stopping=False):

    each step    of all continuations of the `beams` rows the likeliest are looked at, enough of them that `beams`
                 go on even if all others end here
    an end       counts where it is among the first `beams`; its score is its log-probability / its length
    the search   is over when `beams` ends are better than the best row that goes on, or at max_tokens
"""

from __future__ import annotations

import torch

from groundup.inference.runner import Runner
from groundup.inference.sampling import Sampling, penalize


def search(
    runner: Runner, prompt: list[int], sampling: Sampling, stop_ids: frozenset[int], adapter: str | None
) -> tuple[list[int], bool]:
    """The best answer's ids, without the one that ends it, and whether it ended itself.

    Rows 0 ... beams - 1 of the runner's cache are used; the prompt is read once and rows share what they began with.
    """
    width, cache = sampling.beams, runner.cache
    for slot in range(width):
        cache.free(slot)
    logits = runner.join([prompt], [0], [adapter])
    cache.copy(0, range(1, width))
    before = [runner.start] if runner.two_halves and runner.start is not None else prompt
    beams: list[list[int]] = [[]]
    scores = logits.new_zeros(1)
    ended: list[tuple[float, list[int]]] = []
    looked_at = width * max(2, 1 + len(stop_ids))
    for length in range(1, sampling.max_tokens + 1):
        likely = logits.log_softmax(1)
        if sampling.repetition_penalty not in (None, 1.0):
            penalty = float(sampling.repetition_penalty or 1.0)
            likely = torch.stack([penalize(row, before + ids, penalty) for row, ids in zip(likely, beams, strict=True)])
        total = (likely + scores[:, None]).flatten()
        best = total.topk(min(looked_at, len(total)))
        going_on: list[tuple[float, int, int]] = []
        for rank, (score, place) in enumerate(zip(best.values.tolist(), best.indices.tolist(), strict=True)):
            beam, token = divmod(place, likely.shape[1])
            if token in stop_ids or length == sampling.max_tokens:
                if rank < width:
                    ended.append((score / length, [*beams[beam], token]))
            elif len(going_on) < width:
                going_on.append((score, beam, token))
        ended = sorted(ended, key=lambda end: -end[0])[:width]
        if not going_on or (len(ended) == width and going_on[0][0] / length <= ended[-1][0]):
            break
        order = [beam for _, beam, _ in going_on]
        beams = [[*beams[beam], token] for _, beam, token in going_on]
        scores = logits.new_tensor([score for score, _, _ in going_on])
        cache.reorder(order + list(range(len(order), cache.rows)))
        logits = runner.go_on([ids[-1] for ids in beams], [adapter] * len(beams))
    ids = ended[0][1]
    return (ids[:-1], True) if ids[-1] in stop_ids else (ids, False)
