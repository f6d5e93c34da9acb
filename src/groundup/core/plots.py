"""Pictures of plain numbers: a loss curve, a confusion of labels, scores with their intervals. Each goes to a PNG.

matplotlib is loaded by the first picture only. Figures are objects of their own, with no global state, so a picture
can be drawn from any thread and needs no screen.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from groundup.core.errors import UsageError
from groundup.core.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

COLOURS = ("#9aa5b1", "#2f6fb2", "#e08a3c", "#3f9b6c", "#b0487a", "#6d5fb5")
INK, QUIET, GRID = "#22303c", "#5f6c78", "#e3e8ed"


def loss_curve(
    train: Sequence[tuple[float, float]],
    path: str | Path,
    *,
    validation: Sequence[tuple[float, float]] = (),
    best: float | None = None,
    last: float | None = None,
    title: str = "Loss",
) -> None:
    """Points (step, loss) of training and validation; `best` and `last` are the steps whose weights were kept.

    Training is drawn as it was measured, pale, with its running mean over it.
    """
    if not train and not validation:
        raise UsageError("there is no loss to draw")
    figure, axes = _sheet(7.2, 4.2, title)
    if train:
        steps, losses = zip(*train, strict=True)
        dot = "o" if len(train) < 10 else None
        axes.plot(steps, losses, color=COLOURS[0], linewidth=0.9, alpha=0.75)
        axes.plot(
            steps, _running_mean(losses), color=COLOURS[1], linewidth=2.0, marker=dot, markersize=4.5, label="training"
        )
    if validation:
        steps, losses = zip(*validation, strict=True)
        axes.plot(steps, losses, color=COLOURS[2], linewidth=2.0, marker="o", markersize=4.5, label="validation")
    if best is not None:
        at, loss = _nearest(best, validation or train)
        label = f"best: {loss:.3f} at step {at:g}"
        axes.plot([at], [loss], "*", markersize=15, color=COLOURS[3], markeredgecolor=INK, label=label, zorder=6)
    if last is not None:
        at, loss = _nearest(last, validation or train)
        label = f"last: {loss:.3f} at step {at:g}"
        axes.plot([at], [loss], "s", markersize=7, color="white", markeredgecolor=INK, label=label, zorder=5)
    axes.set_xlabel("step")
    axes.set_ylabel("loss a token (nats)")
    axes.set_xlim(left=0)
    axes.legend(frameon=False, labelcolor=INK)
    _write(figure, path)


def _running_mean(values: Sequence[float]) -> list[float]:
    """The mean of each value and its neighbours on both sides, so that it does not lag; fewer near the steep start."""
    reach = len(values) // 30
    means = []
    for i in range(len(values)):
        near = min(reach, i)
        window = values[i - near : i + near + 1]
        means.append(sum(window) / len(window))
    return means


def _nearest(step: float, points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    return min(points, key=lambda point: abs(point[0] - step))


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
    figure, axes = _sheet(1.2 + 0.09 * longest + cell * len(columns), 1.9 + cell * len(labels), title)
    axes.imshow(shares, cmap=_shades(), vmin=0, vmax=1, aspect="equal")
    for i, row in enumerate(counts):
        for j, count in enumerate(row):
            colour = "white" if shares[i][j] > 0.55 else INK if count else "#b8c1ca"
            axes.text(j, i, str(count), ha="center", va="center", color=colour, fontsize=11)
    axes.set_xticks(range(len(columns)), [_plain(name) for name in columns])
    if max(len(name) for name in columns) > 7:
        for tick in axes.get_xticklabels():
            tick.set(rotation=35, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(labels)), [_plain(name) for name in labels])
    axes.set_xlabel("answered")
    axes.set_ylabel("right")
    axes.grid(visible=False)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    _write(figure, path)


def bars(
    groups: Sequence[str],
    series: Mapping[str, Sequence[tuple[float, float, float] | None]],
    path: str | Path,
    *,
    title: str = "Scores",
) -> None:
    """Groups of bars, one group a score, one bar a series: (value, low, high) with an interval, None for none.

    Values lie between 0 and 1.
    """
    if not groups or not series or any(len(values) != len(groups) for values in series.values()):
        raise UsageError(f"{len(groups)} groups need as many values in each series")
    from matplotlib.patches import Patch

    colours = {name: COLOURS[index % len(COLOURS)] for index, name in enumerate(series)}
    shown = [{name: values[group] for name, values in series.items()} for group in range(len(groups))]
    slots = sum(max(1, sum(value is not None for value in group.values())) for group in shown) + len(groups)
    figure, axes = _sheet(max(5.0, 1.2 + 0.55 * slots), 4.4, title)
    at, middles = 0.0, []
    for group in shown:
        first = at
        for name, value in group.items():
            if value is None:
                continue
            middle, low, high = value
            axes.bar([at], [middle], 0.86, color=colours[name], zorder=2)
            reach = [[max(0.0, middle - low)], [max(0.0, high - middle)]]
            axes.errorbar([at], [middle], yerr=reach, color=INK, linewidth=1.1, capsize=3, zorder=3)
            above = (at, max(middle, high))
            axes.annotate(
                f"{middle:.2f}", above, (0, 3), textcoords="offset points", ha="center", fontsize=9, color=INK
            )
            at += 1
        at = max(at, first + 1)
        middles.append((first + at - 1) / 2)
        at += 1
    axes.set_xticks(middles, [_plain(group) for group in groups])
    axes.set_xlim(-1, at - 1)
    axes.set_ylim(0, 1.1)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
    axes.grid(visible=False, axis="x")
    axes.tick_params(axis="x", length=0)
    figure.legend(
        handles=[Patch(color=colour, label=_plain(name)) for name, colour in colours.items()],
        loc="outside lower center",
        ncols=min(3, len(series)),
        frameon=False,
        labelcolor=INK,
        handlelength=1.2,
        handleheight=1.0,
    )
    _write(figure, path)


def _sheet(width: float, height: float, title: str) -> tuple[Figure, Axes]:
    """A figure in inches with one pair of axes, in the house's colours."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=160, layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    title = textwrap.fill(title, max(12, round(8.5 * (width - 1.4))))  # about so many bold letters fit an inch
    axes.set_title(_plain(title), loc="left", fontsize=13, fontweight="bold", color=INK, pad=12)
    axes.grid(visible=True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=QUIET, labelcolor=INK, labelsize=10)
    axes.xaxis.label.set_color(QUIET)
    axes.yaxis.label.set_color(QUIET)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#b8c1ca")
    return figure, axes


def _shades() -> Colormap:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("house", ["#f6f8fa", "#a9c6e3", "#2f6fb2", "#173f6b"])


def _plain(text: str) -> str:
    """Text without meaning for matplotlib: a dollar is a dollar and no formula."""
    return text.replace("$", r"\$")


def _write(figure: Figure, path: str | Path) -> None:
    page = io.BytesIO()
    figure.savefig(page, format="png")
    atomic_write(Path(path), page.getvalue())
