"""Beam search: the answer whose mean log-probability a token is highest, among the few that are followed."""

from __future__ import annotations

import torch

from groundup.inference.runner import Runner
from groundup.inference.sampling import Sampling


def search(
    runner: Runner, prompt: list[int], sampling: Sampling, stop_ids: frozenset[int], adapter: str | None
) -> tuple[list[int], bool]:
    raise NotImplementedError
