"""Maps against a singular value decomposition by hand; nearest words against plain loops; a trained model against none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import groundup as gu
from groundup.core.errors import UsageError
from groundup.interpret.vectors import embedding_map, nearest_words, table_of

GROUPS = {
    "animals": "cat dog horse cow lion tiger wolf sheep",
    "food": "bread cheese apple rice soup cake butter pasta",
    "vehicles": "car train bicycle truck ship plane bus tram",
}
TEXTS = [word for words in GROUPS.values() for word in words.split()]
NAMES = [name for name, words in GROUPS.items() for _ in words.split()]


def test_the_map_is_the_first_two_principal_components() -> None:
    torch.manual_seed(0)
    vectors = torch.randn(9, 5) * torch.tensor([3.0, 2.0, 1.0, 0.5, 0.1])
    found = embedding_map(vectors, [str(i) for i in range(9)], ["a", "b", "c"] * 3)
    centred = (vectors - vectors.mean(0)).double().numpy()
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    want = torch.from_numpy(u[:, :2] * s[:2]).float()
    torch.testing.assert_close(found.points.abs(), want.abs(), rtol=1e-4, atol=1e-5)  # the sign is anybody's
    assert found.explained == pytest.approx(tuple(s[:2] ** 2 / (s**2).sum()))


def silhouette(vectors: torch.Tensor, groups: list[str]) -> float:
    """By hand: (b - a) / max(a, b) of each text, a to its own group, b to the nearest other one."""
    unit = torch.nn.functional.normalize(vectors.double())
    far = 1 - unit @ unit.T
    each = []
    for i, mine in enumerate(groups):

        def mean(group: str, i: int = i) -> float:
            return float(np.mean([far[i, j] for j, g in enumerate(groups) if g == group and j != i]))

        a, b = mean(mine), min(mean(g) for g in set(groups) - {mine})
        each.append((b - a) / max(a, b))
    return float(np.mean(each))


def test_the_silhouette_is_the_one_by_hand() -> None:
    torch.manual_seed(1)
    groups = ["a"] * 4 + ["b"] * 3 + ["c"] * 2
    vectors = torch.randn(9, 5) + torch.tensor([3.0, 0, 0, 0, 0]) * (torch.arange(9) < 4)[:, None]
    found = embedding_map(vectors, list("123456789"), groups)
    assert found.silhouette == pytest.approx(silhouette(vectors, groups))
    assert embedding_map(vectors, list("123456789"), ["a"] * 9).silhouette is None
    with pytest.raises(UsageError, match="three or more"):
        embedding_map(vectors[:2], ["1", "2"], ["a", "b"])


def test_a_trained_model_sets_groups_apart_and_a_random_one_does_not(starter: Callable[[str], Path]) -> None:
    model = gu.load(starter("all-minilm-l6-v2"))
    trained = embedding_map(model, TEXTS, NAMES).silhouette
    blank = gu.build(model.config, seed=1)
    random = embedding_map(gu.Model(**{**vars(blank), "tokenizer": model.tokenizer}), TEXTS, NAMES).silhouette
    assert trained is not None and random is not None
    assert trained > 0.1 and random < 0.05
    shuffled = embedding_map(model, TEXTS, [NAMES[(7 * i) % 24] for i in range(24)]).silhouette
    assert shuffled is not None and shuffled < 0


@pytest.mark.parametrize("name", ["gpt2-plain", "t5-first", "bert-plain"])
def test_nearest_words_by_plain_loops(name: str, pair: Callable[[str], Any]) -> None:
    oracle, model = pair(name)
    table = oracle.get_input_embeddings().weight.detach().double().numpy()
    torch.manual_seed(2)
    vectors = torch.randn(4, table.shape[1])
    found = nearest_words(vectors, model, top=3)
    for vector, near in zip(vectors.double().numpy(), found, strict=True):
        cosine = [v @ vector / np.linalg.norm(v) / np.linalg.norm(vector) for v in table]
        distance = [np.linalg.norm(v - vector) for v in table]
        for got, scores, order in (
            (near.cosine, cosine, np.argsort(cosine)[::-1]),
            (near.distance, distance, np.argsort(distance)),
        ):
            assert [word for word, _ in got] == [str(i) for i in order[:3]]
            assert [score for _, score in got] == pytest.approx([scores[i] for i in order[:3]], rel=1e-4)


def test_a_words_own_vector_lies_next_to_itself(pair: Callable[[str], Any]) -> None:
    _, model = pair("llama-grouped")
    near = nearest_words(table_of(model)[[17, 60]], model, top=2)
    for found, word in zip(near, ("17", "60"), strict=True):
        assert found.cosine[0] == (word, pytest.approx(1.0)) and found.distance[0] == (word, 0.0)
        assert found.cosine[1][1] < 0.99 and found.distance[1][1] > 0.1
    with pytest.raises(UsageError, match="3 numbers, .* 42"):
        nearest_words(torch.zeros(2, 3), model)
    with pytest.raises(UsageError, match="97 words"):
        nearest_words(torch.zeros(2, 42), model, top=98)
