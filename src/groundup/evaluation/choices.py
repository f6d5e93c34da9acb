"""Multiple choice by the log-probability of each choice after the question, as lm-eval scores it.

    acc        the choice with the highest log-probability, summed over its tokens
    acc_norm   ... divided by how many characters the choice has
    acc_bytes  ... divided by how many bytes it has (UTF-8)

The choice follows the prompt after a space, which belongs to neither length. The two are read as one text, and the
choice's tokens are those behind as many as the prompt alone gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from groundup.core.errors import UsageError
from groundup.data.labelled import Question
from groundup.evaluation.metrics import Score, share
from groundup.inference.score import nll_each
from groundup.inputs.tokenizer import Encoded, Tokenizer


def encode_choice(prompt: str, choice: str, tokenizer: Tokenizer) -> Encoded:
    """The ids of prompt and choice; the choice's are marked. UsageError where it has none of its own."""
    spaces = len(prompt) - len(prompt.rstrip())
    prompt, choice = prompt[: len(prompt) - spaces], (prompt[len(prompt) - spaces :] or " ") + choice
    before, whole = tokenizer.encode(prompt), tokenizer.encode(prompt + choice)
    for frame in tokenizer.encode("")[::-1]:  # an end that the tokenizer puts behind every text
        if before and whole and before[-1] == whole[-1] == frame and frame == tokenizer.eos_id:
            before, whole = before[:-1], whole[:-1]
    if len(whole) <= len(before) or not before:
        raise UsageError(f"the choice {choice!r} has no tokens of its own after the prompt, or the prompt has none")
    return Encoded(before + whole[len(before) :], [False] * len(before) + [True] * (len(whole) - len(before)))


def choice_logprobs(network: Any, questions: Sequence[Question], tokenizer: Tokenizer, **how: Any) -> list[list[float]]:
    """The log-probability (in nats) of every choice of every question; `how` as in `inference.score.nll_each`."""
    rows = [encode_choice(q.prompt, choice, tokenizer) for q in questions for choice in q.choices]
    found = iter(nll_each(network, rows, **how))
    return [[-next(found)[0] for _ in q.choices] for q in questions]


def picked(logprobs: Sequence[float], choices: Sequence[str], by: str = "acc") -> int:
    """The place of the choice that a metric (acc, acc_norm, acc_bytes) picks; the first of equal ones."""
    sizes = {"acc": lambda text: 1, "acc_norm": len, "acc_bytes": lambda text: len(text.encode())}
    return int(np.argmax([p / sizes[by](text) for p, text in zip(logprobs, choices, strict=True)]))


def choice_scores(questions: Sequence[Question], logprobs: Sequence[Sequence[float]]) -> list[Score]:
    """acc, acc_norm and acc_bytes: the share of questions whose picked choice is the right one."""
    return [
        share(by, (picked(each, q.choices, by) == q.answer for q, each in zip(questions, logprobs, strict=True)))
        for by in ("acc", "acc_norm", "acc_bytes")
    ]
