"""Where words lie: maps of embedded texts, and the words that vectors lie next to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from groundup.checkpoints.safetensors import open_safetensors
from groundup.core.errors import GroundupError, UsageError
from groundup.model import Model
from groundup.nn.stack import EncoderDecoder
from groundup.peft.front import fronts


@dataclass(frozen=True)
class EmbeddingMap:
    """Texts on a plane.

    points      [n, 2] along the two directions in which the vectors differ most (principal components)
    explained   the share of all differences that each direction shows
    silhouette  -1 to 1: how much nearer a text is to its own group than to the next one, in cosine distance of the whole
                vectors (Rousseeuw 1987); None for one group. Above 0 the groups stand apart.
    """

    texts: list[str]
    groups: list[str]
    points: Float[Tensor, "n 2"]
    explained: tuple[float, float]
    silhouette: float | None


def embedding_map(of: Model | Float[Tensor, "n D"], texts: Sequence[str], groups: Sequence[str]) -> EmbeddingMap:
    """A map of texts by their embeddings (`Model.embed`), or by vectors of your own; a group's name for each text.

    PCA and silhouette are scikit-learn's. Raises UsageError for fewer than three texts or texts without a group.
    """
    try:
        from sklearn.decomposition import PCA
        from sklearn.metrics import silhouette_score
    except ImportError as error:
        raise GroundupError("a map of embeddings needs scikit-learn: pip install 'groundup[data]'") from error
    vectors = of.embed(texts) if isinstance(of, Model) else of
    if not len(texts) == len(groups) == len(vectors) or len(texts) < 3:
        raise UsageError(
            f"{len(texts)} texts, {len(groups)} groups, {len(vectors)} vectors: a map needs three or more, one of each"
        )
    numbers = vectors.detach().double().cpu().numpy()
    plane = PCA(n_components=2, svd_solver="full")
    points = torch.from_numpy(plane.fit_transform(numbers)).float()
    kinds = len(set(groups))
    apart = float(silhouette_score(numbers, list(groups), metric="cosine")) if 1 < kinds < len(texts) else None
    first, second = (float(share) for share in plane.explained_variance_ratio_)
    return EmbeddingMap(list(texts), list(groups), points, (first, second), apart)


@dataclass(frozen=True)
class Near:
    """The words that one vector lies next to: by the angle (cosine, 1 is the same direction), and by distance (L2)."""

    cosine: list[tuple[str, float]]
    distance: list[tuple[str, float]]


def nearest_words(vectors: Float[Tensor, "P D"], model: Model, *, top: int = 5) -> list[Near]:
    """What each vector lies next to in the model's table of token embeddings, nearest first.

    For the vectors of a soft prompt: they stand where embedded tokens stand. That they lie next to a word does not mean
    that they act like it (Khashabi et al., arXiv 2112.08348).
    Raises UsageError for vectors of another width than the model's.
    """
    table = table_of(model)
    if vectors.shape[1] != table.shape[1]:
        raise UsageError(
            f"the vectors have {vectors.shape[1]} numbers, the words of {model.origin.name} {table.shape[1]}"
        )
    if not 1 <= top <= len(table):
        raise UsageError(f"top={top} makes no sense: there are {len(table):,} words")
    vectors = vectors.detach().to(table)
    angle = (F.normalize(vectors, dim=1) @ F.normalize(table, dim=1).T).topk(top)
    far = torch.cdist(vectors, table, compute_mode="donot_use_mm_for_euclid_dist").topk(top, largest=False)
    return [
        Near(
            list(zip(model.pieces(a.tolist()), cosine.tolist(), strict=True)),
            list(zip(model.pieces(b.tolist()), distance.tolist(), strict=True)),
        )
        for a, cosine, b, distance in zip(angle.indices, angle.values, far.indices, far.values, strict=True)
    ]


def table_of(model: Model) -> Float[Tensor, "V D"]:
    """The embedding of each token, as the first block gets it (before positions and norm)."""
    network = model.network
    embed = network.encoder.embed if isinstance(network, EncoderDecoder) else network.embed
    return embed.tokens.weight.dense().detach().float() * embed.scale


def of_text(lm: Model, text: str) -> tuple[list[str], Tensor]:
    """The tokens of a text, and their rows in the model's table."""
    ids = lm.encode(text) if lm.tokenizer is None else lm.tokenizer.encode(text, special=False)
    if not ids:
        raise UsageError("the text has no tokens: give another one")
    return lm.pieces(ids), table_of(lm)[ids]


def of_prompt(lm: Model) -> tuple[list[str], Tensor]:
    """Numbers for names, and the vectors of the soft prompt in use."""
    front = fronts(lm.network).get(lm.adapter or "")
    found = None if front is None else front.vectors()
    if found is None:
        raise UsageError("no soft prompt is in use here: give a text, an --adapter with one, or --vectors")
    return [str(i) for i in range(len(found))], found


def of_file(path: Path) -> tuple[list[str], Tensor]:
    """Numbers for names, and the vectors of a soft prompt or a .npy file."""
    if path.suffix == ".npy":
        try:
            found = torch.from_numpy(np.load(path, allow_pickle=False)).float()
        except ValueError as error:
            raise UsageError(f"{path} is no file of plain numbers: {error}") from None
    else:
        file = path / "adapter_model.safetensors" if path.is_dir() else path
        source = open_safetensors(file)
        if "prompt_embeddings" not in source.names:
            some = ", ".join(list(source.names)[:3])
            raise UsageError(f"{file} holds no soft prompt (a tensor prompt_embeddings) but {some}")
        found = source.read("prompt_embeddings").float()
    if found.ndim != 2:
        raise UsageError(f"{path} holds numbers of shape {tuple(found.shape)}: vectors have two axes, [P, D]")
    return [str(i) for i in range(len(found))], found
