"""What was seen, drawn: each picture goes to a PNG (see `groundup.core.plots`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from jaxtyping import Bool
from torch import Tensor

from groundup.core import plots
from groundup.core.errors import UsageError
from groundup.interpret.look import Lens, Map
from groundup.interpret.tables import Positions, by_distance
from groundup.interpret.vectors import EmbeddingMap, Near

SIDE = 4  # panels in a line, where the heads of one layer are drawn


def attention(maps: Sequence[Map], path: str | Path, *, head: int | None = None, title: str | None = None) -> None:
    """Several maps: a sheet of layers (lines) and heads (columns). One map: its heads, or one `head` with its tokens.

    The maps are of one part (see `chosen`).
    """
    if not maps or len({m.part for m in maps}) != 1:
        raise UsageError("a picture of attention shows one part: choose its maps first")
    first = maps[0]
    heads = len(first.weights)
    if head is not None:
        if len(maps) != 1:
            raise UsageError("one head with its tokens is drawn for one layer: name the layer too")
        plots.heat(
            first.weights[head].tolist(),
            path,
            lines=first.queries,
            columns=first.keys,
            title=title or f"{first.path}, head {head}",
            down="looks",
            across="is looked at",
            limits=(0.0, 1.0),
        )
        return
    if len(maps) > 1:
        plots.squares(
            [m.weights.tolist() for m in maps],
            path,
            lines=[str(m.layer) for m in maps],
            columns=[str(h) for h in range(heads)],
            title=title or f"{first.part}: who looks (down) at whom (across)",
            down="layer",
            across="head",
        )
        return
    tall, panels = math.ceil(heads / SIDE), list(first.weights.tolist())
    panels += [None] * (tall * SIDE - heads)
    wide = min(SIDE, heads)
    plots.squares(
        [panels[i * SIDE : i * SIDE + wide] for i in range(tall)],
        path,
        lines=[""] * tall,
        columns=[""] * wide,
        captions=[[f"head {h}" for h in range(i * SIDE, min(heads, i * SIDE + wide))] for i in range(tall)],
        title=title or f"{first.path}: who looks (down) at whom (across)",
    )


def lens(seen: Lens, path: str | Path, *, title: str = "What each layer would say next") -> None:
    """The likeliest word of each layer (line, the last layer on top) after each token (column), darker where surer."""
    plots.heat(
        [line[:, 0].tolist() for line in seen.probability.flip(0)],
        path,
        lines=list(reversed(seen.layers)),
        columns=seen.tokens,
        texts=[[words[0] for words in line] for line in reversed(seen.words)],
        title=title,
        across="read so far",
        limits=(0.0, 1.0),
    )


def embedding_map(found: EmbeddingMap, path: str | Path, *, title: str | None = None) -> None:
    """The texts on their plane, a colour a group."""
    shares = [f"{share:.0%} of all differences" for share in found.explained]
    apart = "" if found.silhouette is None else f", silhouette {found.silhouette:.2f}"
    plots.points(
        [(x, y) for x, y in found.points.tolist()],
        found.texts,
        found.groups,
        path,
        title=title or f"{len(found.texts)} texts{apart}",
        across=shares[0],
        down=shares[1],
    )


def positions(table: Positions, path: str | Path, *, title: str | None = None) -> None:
    """A table of places (lines) and numbers (columns); for a bias, each head's (lines) by distance (columns)."""
    where = f" ({table.path})" if table.path else ""
    if table.values.ndim == 3:
        ahead = table.kind != "alibi"  # which is for decoders: nothing ahead is seen
        values = by_distance(table.values, ahead=ahead)
        length = table.values.shape[1]
        plots.heat(
            values.tolist(),
            path,
            lines=[str(h) for h in range(len(values))],
            columns=[str(d) for d in range(1 - length, length if ahead else 1)],
            title=title or f"Positions: {table.kind}{where}",
            down="head",
            across="key - query, in tokens",
        )
        return
    flat = table.values.abs().flatten()
    most = float(flat[:: max(1, len(flat) >> 20)].quantile(0.99)) if table.kind == "learned" else 1.0
    plots.heat(
        table.values.tolist(),
        path,
        lines=[str(p) for p in range(len(table.values))],
        columns=[str(d) for d in range(table.values.shape[1])],
        title=title or f"Positions: {table.kind}{where}",
        down="position",
        across="cosines, then sines of each pair" if table.kind == "rotary" else "dimension",
        limits=(-most, most),  # a few learned numbers may be so large that all others would be pale
    )


def mask(sees: Bool[Tensor, "T T"], path: str | Path, *, title: str = "Who sees whom") -> None:
    """Dark where a token (line) sees another (column)."""
    names = [str(i) for i in range(len(sees))]
    plots.heat(
        sees.float().tolist(),
        path,
        lines=names,
        columns=names,
        title=title,
        down="looks",
        across="is looked at",
        limits=(0.0, 1.0),
        bar=False,
    )


def nearest_words(found: Sequence[Near], path: str | Path, *, names: Sequence[str] = (), title: str = "") -> None:
    """The nearest words of each vector (lines) by the angle, nearest first, darker where the cosine is greater."""
    plots.heat(
        [[cosine for _, cosine in near.cosine] for near in found],
        path,
        lines=list(names) or [str(i) for i in range(len(found))],
        columns=[str(i + 1) for i in range(len(found[0].cosine))],
        texts=[[word for word, _ in near.cosine] for near in found],
        title=title or "Words that the vectors lie next to (cosine)",
        limits=(0.0, 1.0),
    )


def chosen(maps: Sequence[Map], *, part: str | None = None, layer: int | None = None) -> list[Map]:
    """The maps of one part (left out: the first one's) and, if given, one layer; -1 is the last.

    Raises UsageError with what there is.
    """
    parts = list(dict.fromkeys(m.part for m in maps))
    part = parts[0] if part is None else part
    if part not in parts:
        raise UsageError(f"no attention called {part!r}; there are {', '.join(parts)}")
    mine = [m for m in maps if m.part == part]
    if layer is None:
        return mine
    if not -len(mine) <= layer < len(mine):
        raise UsageError(f"layer {layer}: {part} has layers 0 to {len(mine) - 1}")
    return [mine[layer]]
