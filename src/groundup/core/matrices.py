"""Matrices as pictures: confusions, heat maps, sheets of small squares. Each goes to a PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from groundup.core.errors import UsageError
from groundup.core.sheet import INK, QUIET, no_frame, one_sided, plain, sheet, two_sided, visible, write

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def confusion(
    labels: Sequence[str],
    counts: Sequence[Sequence[int]],
    path: str | Path,
    *,
    title: str = "Confusion",
    other: str = "(other)",
) -> None:
    """`counts[i][j]` rows of label i were answered with label j; one column more than there are labels is `other`.

    Shades are shares of the line, so that a rare label is as readable as a common one.
    """
    if not labels or len(counts) != len(labels) or len({len(row) for row in counts}) != 1:
        raise UsageError(f"a confusion of {len(labels)} labels needs as many even lines, not {len(counts)}")
    columns = [*labels, other][: len(counts[0])]
    shares = [[count / max(1, sum(row)) for count in row] for row in counts]
    longest = max(len(label) for label in labels)
    cell = 0.75
    figure, axes = sheet(1.2 + 0.09 * longest + cell * len(columns), 1.9 + cell * len(labels), title)
    axes.imshow(shares, cmap=one_sided(), vmin=0, vmax=1, aspect="equal")
    for i, row in enumerate(counts):
        for j, count in enumerate(row):
            colour = "white" if shares[i][j] > 0.55 else INK if count else "#b8c1ca"
            axes.text(j, i, str(count), ha="center", va="center", color=colour, fontsize=11)
    axes.set_xticks(range(len(columns)), [plain(name) for name in columns])
    if max(len(name) for name in columns) > 7:
        for tick in axes.get_xticklabels():
            tick.set(rotation=35, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(labels)), [plain(name) for name in labels])
    axes.set_xlabel("answered")
    axes.set_ylabel("right")
    axes.grid(visible=False)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    write(figure, path)


def heat(
    values: Sequence[Sequence[float]],
    path: str | Path,
    *,
    lines: Sequence[str],
    columns: Sequence[str],
    title: str,
    down: str = "",
    across: str = "",
    texts: Sequence[Sequence[str]] | None = None,
    limits: tuple[float, float] | None = None,
    bar: bool = True,
) -> None:
    """Numbers as shades, a line and a column a name; `texts` stand in the cells.

    Where numbers are below zero, these are orange and those above it blue. limits: what is palest and what is darkest (left out:
    the least and the greatest). bar: with the scale of the shades beside it. Of names that would overlap, every second,
    third ... is written.
    """
    if not values or not values[0] or len(values) != len(lines) or {len(v) for v in values} != {len(columns)}:
        raise UsageError(f"{len(lines)} lines and {len(columns)} columns of names need as many numbers")
    flat = [v for line in values for v in line]
    low, high = (min(flat), max(flat)) if limits is None else limits
    signed = low < 0
    if signed:
        low, high = -max(-low, high), max(-low, high)
    lines, columns = [visible(name, 24) for name in lines], [visible(name, 24) for name in columns]
    shown = None if texts is None else [[visible(text, 14) for text in line] for line in texts]
    if shown is None:
        wide = tall = max(0.02, min(0.34, 6.5 / max(len(lines), len(columns))))
        wide, tall = max(wide, 2.6 / len(columns)), max(tall, min(0.34, 1.6 / len(lines)))
    else:
        longest = max(len(text) for line in shown for text in line)
        wide, tall = max(0.5, 0.16 + 0.085 * longest), 0.27
    left, below = 0.75 + 0.085 * max(map(len, lines)), 0.7 + 0.075 * max(map(len, columns))
    figure, axes = sheet(left + wide * len(columns) + (1.0 if bar else 0.2), 0.7 + below + tall * len(lines), title)
    shades = two_sided() if signed else one_sided()
    image = axes.imshow(values, cmap=shades, vmin=low, vmax=high, aspect="auto", interpolation="nearest")
    if bar:
        scale = figure.colorbar(image, ax=axes, fraction=0.05, pad=0.02)
        scale.outline.set_visible(False)
        scale.ax.tick_params(colors=QUIET, labelcolor=INK, labelsize=9, length=0)
    if shown is not None:
        for i, line in enumerate(shown):
            for j, text in enumerate(line):
                depth = (values[i][j] - low) / (high - low or 1)
                dark = abs(depth - 0.5) > 0.36 if signed else depth > 0.55
                axes.text(j, i, text, ha="center", va="center", color="white" if dark else INK, fontsize=8.5)
    _bare(axes, lines, columns, tall, wide, down, across)
    write(figure, path)


def squares(
    panels: Sequence[Sequence[Sequence[Sequence[float]] | None]],
    path: str | Path,
    *,
    lines: Sequence[str],
    columns: Sequence[str],
    title: str,
    down: str = "",
    across: str = "",
    captions: Sequence[Sequence[str]] | None = None,
) -> None:
    """A sheet of small matrices of one size, with numbers between 0 and 1: `panels[i][j]` in line i and column j.

    Shades follow the square root, so that small numbers can be seen beside large ones. None leaves a place free.
    """
    first = next((p for row in panels for p in row if p is not None), None)
    if first is None or len(panels) != len(lines) or {len(row) for row in panels} != {len(columns)}:
        raise UsageError(f"{len(lines)} lines and {len(columns)} columns of names need as many panels")
    from matplotlib.colors import PowerNorm

    height, width = len(first), len(first[0])
    gap = max(1, round(max(height, width) / 10))
    empty = float("nan")
    whole = [[empty] * ((width + gap) * len(columns) - gap) for _ in range((height + gap) * len(lines) - gap)]
    for i, row in enumerate(panels):
        for j, panel in enumerate(row):
            for y, numbers in enumerate(panel or ()):
                begin = j * (width + gap)
                whole[i * (height + gap) + y][begin : begin + width] = numbers
    side = max(0.34, min(1.5, 8.0 / max(len(lines), len(columns))))
    longest = max(map(len, lines), default=0)
    figure, axes = sheet(
        max(4.0, 0.9 + 0.085 * longest + side * len(columns)), 1.2 + side * len(lines) * height / width, title
    )
    axes.imshow(whole, cmap=one_sided(), norm=PowerNorm(0.5, 0, 1), aspect="auto", interpolation="nearest")
    for i, names in enumerate(captions or ()):
        for j, name in enumerate(names):
            at = (j * (width + gap) - 0.5, i * (height + gap) - 0.5)
            axes.annotate(visible(name), at, (1, 2), textcoords="offset points", fontsize=7.5, color=QUIET)
    axes.set_yticks([i * (height + gap) + (height - 1) / 2 for i in range(len(lines))], [visible(n) for n in lines])
    axes.set_xticks([j * (width + gap) + (width - 1) / 2 for j in range(len(columns))], [visible(n) for n in columns])
    axes.set_ylabel(down)
    axes.set_xlabel(across)
    no_frame(axes)
    axes.tick_params(labelsize=9 if side > 0.6 else 7.5)
    write(figure, path)


def _bare(
    axes: Axes, lines: Sequence[str], columns: Sequence[str], tall: float, wide: float, down: str, across: str
) -> None:
    """Names along a matrix, as many as have room (0.16 inch each), and no frame."""
    turned = max(map(len, columns)) * 0.085 > wide
    every, each = _step(0.16 / tall), _step((0.16 if turned else 0.3) / wide)
    axes.set_yticks(range(0, len(lines), every), lines[::every])
    axes.set_xticks(range(0, len(columns), each), columns[::each])
    if turned:
        for tick in axes.get_xticklabels():
            tick.set(rotation=90)
    axes.set_ylabel(down)
    axes.set_xlabel(across)
    no_frame(axes)
    axes.tick_params(labelsize=9)


def _step(least: float) -> int:
    """1, 2, 5, 10, 20, 50 ...: the first that is not below `least`."""
    return next(step for power in range(9) for step in (10**power, 2 * 10**power, 5 * 10**power) if step >= least)
