"""Pictures of plain numbers: curves, confusions, scores with their intervals, heat maps, points. Each goes to a PNG.

matplotlib is loaded by the first picture only. Figures are objects of their own, with no global state, so a picture
can be drawn from any thread and needs no screen.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Mapping, Sequence
from functools import cache
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


def rate_curve(
    rates: Sequence[float],
    losses: Sequence[float],
    smooth: Sequence[float],
    path: str | Path,
    *,
    suggestion: float,
    lost: float | None = None,
    title: str = "Loss by learning rate",
) -> None:
    """The losses of a range test by the rate (in powers of ten): as measured, pale, and smoothed; the rate that is
    suggested, and the one at which all that was won is lost."""
    figure, axes = _sheet(7.2, 4.2, title)
    axes.plot(rates, losses, color=COLOURS[0], linewidth=0.9, alpha=0.75)
    axes.plot(rates, smooth, color=COLOURS[1], linewidth=2.0, label="smoothed")
    at, loss = min(zip(rates, smooth, strict=True), key=lambda point: abs(point[0] - suggestion))
    axes.plot([at], [loss], "*", markersize=15, color=COLOURS[3], markeredgecolor=INK, zorder=6,
              label=f"suggested: {suggestion:.2g}")  # fmt: skip
    if lost is not None:
        axes.axvline(lost, color=QUIET, linewidth=1.0, linestyle="--", label=f"lost at {lost:.2g}")
    axes.set_xscale("log")
    axes.set_ylim(0, 1.15 * max(*smooth, losses[0]))
    axes.set_xlabel("learning rate")
    axes.set_ylabel("loss a token (nats)")
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
    width = max(5.0, 1.2 + 0.55 * slots)
    figure, axes = _sheet(width, 4.4, title)
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
        ncols=max(1, min(3, len(series), int(width / (0.7 + 0.085 * max(map(len, series)))))),  # what fits side by side
        frameon=False,
        labelcolor=INK,
        handlelength=1.2,
        handleheight=1.0,
    )
    _write(figure, path)


def panels(
    lines: Sequence[str],
    columns: Mapping[str, tuple[Sequence[tuple[float, float, float] | None], Callable[[float], str]]],
    path: str | Path,
    *,
    title: str,
    marked: str | None = None,
) -> None:
    """Small pictures side by side, one a column: a horizontal bar a line, (value, low, high) with its spread, and the
    value as a text.

    Values are not negative; those that differ a hundredfold stand on a logarithmic scale. marked: the line in colour.
    """
    if not lines or not columns or any(len(values) != len(lines) for values, _ in columns.values()):
        raise UsageError(f"{len(lines)} lines need as many values in each column")
    from matplotlib.figure import Figure

    names = [_shown(name, 36) for name in lines]
    width, height = 0.6 + 0.085 * max(map(len, names)) + 2.1 * len(columns), 1.35 + 0.42 * len(lines)
    figure = Figure(figsize=(width, height), dpi=160, layout="constrained", facecolor="white")
    figure.suptitle(_plain(title), x=0.01, ha="left", fontsize=13, fontweight="bold", color=INK)
    every = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
    for axes, (name, (values, text)) in zip(every, columns.items(), strict=True):
        _dress(axes)
        positive = [value[0] for value in values if value is not None and value[0] > 0]
        far = bool(positive) and max(positive) >= 100 * min(positive)
        axes.set_title(_plain(name) + (", log scale" if far else ""), loc="left", fontsize=10, color=QUIET)
        if far:
            axes.set_xscale("log")
            axes.set_xlim(min(positive) / 10, max(positive))
        for at, value in enumerate(values):
            if value is None:
                continue
            middle, low, high = value
            axes.barh([at], [middle], 0.66, color=COLOURS[1 if lines[at] == marked else 0], zorder=2)
            if high > low:
                reach = [[max(0.0, middle - max(low, 0.0))], [max(0.0, high - middle)]]
                axes.errorbar([middle], [at], xerr=reach, color=INK, linewidth=1.1, capsize=3, zorder=3)
            axes.annotate(
                text(middle), (max(middle, high), at), (4, 0), textcoords="offset points", va="center", fontsize=8.5, color=INK
            )  # fmt: skip
        low, high = axes.get_xlim()
        # room for the text behind the longest bar
        axes.set_xlim((low, high * (high / low) ** 0.6) if axes.get_xscale() == "log" else (0, high * 1.5 or 1))
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.tick_params(axis="x", which="both", labelbottom=False, length=0)
        axes.spines["bottom"].set_visible(False)
    every[0].set_yticks(range(len(names)), names)
    every[0].invert_yaxis()
    _write(figure, path)


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
    lines, columns = [_shown(name, 24) for name in lines], [_shown(name, 24) for name in columns]
    shown = None if texts is None else [[_shown(text, 14) for text in line] for line in texts]
    if shown is None:
        wide = tall = max(0.02, min(0.34, 6.5 / max(len(lines), len(columns))))
        wide, tall = max(wide, 2.6 / len(columns)), max(tall, min(0.34, 1.6 / len(lines)))
    else:
        longest = max(len(text) for line in shown for text in line)
        wide, tall = max(0.5, 0.16 + 0.085 * longest), 0.27
    left, below = 0.75 + 0.085 * max(map(len, lines)), 0.7 + 0.075 * max(map(len, columns))
    figure, axes = _sheet(left + wide * len(columns) + (1.0 if bar else 0.2), 0.7 + below + tall * len(lines), title)
    shades = _two_sided() if signed else _shades()
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
    _write(figure, path)


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
    figure, axes = _sheet(
        max(4.0, 0.9 + 0.085 * longest + side * len(columns)), 1.2 + side * len(lines) * height / width, title
    )
    axes.imshow(whole, cmap=_shades(), norm=PowerNorm(0.5, 0, 1), aspect="auto", interpolation="nearest")
    for i, names in enumerate(captions or ()):
        for j, name in enumerate(names):
            at = (j * (width + gap) - 0.5, i * (height + gap) - 0.5)
            axes.annotate(_shown(name), at, (1, 2), textcoords="offset points", fontsize=7.5, color=QUIET)
    axes.set_yticks([i * (height + gap) + (height - 1) / 2 for i in range(len(lines))], [_shown(n) for n in lines])
    axes.set_xticks([j * (width + gap) + (width - 1) / 2 for j in range(len(columns))], [_shown(n) for n in columns])
    axes.set_ylabel(down)
    axes.set_xlabel(across)
    _no_frame(axes)
    axes.tick_params(labelsize=9 if side > 0.6 else 7.5)
    _write(figure, path)


def points(
    places: Sequence[tuple[float, float]],
    names: Sequence[str],
    groups: Sequence[str],
    path: str | Path,
    *,
    title: str,
    across: str = "",
    down: str = "",
) -> None:
    """Named points on a plane, a colour a group. Names keep out of each other's way where there is room."""
    if not places or not len(places) == len(names) == len(groups):
        raise UsageError(f"{len(places)} points need as many names and groups, not {len(names)} and {len(groups)}")
    figure, axes = _sheet(7.6, 5.6, title)
    kinds = list(dict.fromkeys(groups))
    for at, kind in enumerate(kinds):
        mine = [p for p, g in zip(places, groups, strict=True) if g == kind]
        colour = COLOURS[(at + 1) % len(COLOURS)]
        axes.scatter([x for x, _ in mine], [y for _, y in mine], s=34, color=colour, label=_shown(kind), zorder=3)
    axes.margins(0.12)
    axes.set_xlabel(across)
    axes.set_ylabel(down)
    if len(kinds) > 1:
        figure.legend(loc="outside lower center", ncols=min(6, len(kinds)), frameon=False, labelcolor=INK)
    figure.draw_without_rendering()  # the axes have their place now
    spots = [(float(x), float(y)) for x, y in (axes.transData.transform(p) for p in places)]
    shown = [_shown(name, 32) for name in names]
    for place, name, shift in zip(places, shown, _beside(spots, [len(name) for name in shown]), strict=True):
        axes.annotate(name, place, shift, textcoords="offset points", fontsize=9, color=INK, zorder=4)
    _write(figure, path)


def _beside(spots: Sequence[tuple[float, float]], lengths: Sequence[int]) -> list[tuple[float, float]]:
    """Where names of so many letters go, in points from their spots (in pixels): where they cover the least."""
    dot = 160 / 72  # pixels of a typographic point
    taken = [(x - 5 * dot, y - 5 * dot, x + 5 * dot, y + 5 * dot) for x, y in spots]
    shifts: list[tuple[float, float]] = [(0.0, 0.0)] * len(spots)
    for i in sorted(range(len(spots)), key=lambda i: spots[i]):
        (x, y), wide = spots[i], 5.6 * lengths[i]
        right, left, middle = 7.0, -7.0 - wide, -wide / 2
        tries = [(right, -4.0), (left, -4.0), (middle, 6.0), (middle, -15.0)]
        tries += [(side, up) for up in (6.0, -15.0, 18.0, -27.0) for side in (right, left)]
        boxes = [(x + dx * dot, y + dy * dot, x + (dx + wide) * dot, y + (dy + 9) * dot) for dx, dy in tries]
        hits = [sum(b[0] < t[2] and t[0] < b[2] and b[1] < t[3] and t[1] < b[3] for t in taken) for b in boxes]
        best = hits.index(min(hits))
        shifts[i] = tries[best]
        taken.append(boxes[best])
    return shifts


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
    _no_frame(axes)
    axes.tick_params(labelsize=9)


def _step(least: float) -> int:
    """1, 2, 5, 10, 20, 50 ...: the first that is not below `least`."""
    return next(step for power in range(9) for step in (10**power, 2 * 10**power, 5 * 10**power) if step >= least)


def _no_frame(axes: Axes) -> None:
    axes.grid(visible=False)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _sheet(width: float, height: float, title: str) -> tuple[Figure, Axes]:
    """A figure in inches with one pair of axes, in the house's colours."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=160, layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    title = textwrap.fill(title, max(12, round(8.5 * (width - 1.4))))  # about so many bold letters fit an inch
    axes.set_title(_plain(title), loc="left", fontsize=13, fontweight="bold", color=INK, pad=12)
    _dress(axes)
    return figure, axes


def _dress(axes: Axes) -> None:
    """The house's colours on a pair of axes."""
    axes.grid(visible=True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=QUIET, labelcolor=INK, labelsize=10)
    axes.xaxis.label.set_color(QUIET)
    axes.yaxis.label.set_color(QUIET)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#b8c1ca")


def _shades() -> Colormap:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("house", ["#f6f8fa", "#a9c6e3", "#2f6fb2", "#173f6b"])


def _two_sided() -> Colormap:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("house2", ["#9c4f12", "#e8a466", "#f6f8fa", "#7fabd6", "#173f6b"])


def _shown(text: str, most: int = 40) -> str:
    """A token as a picture can show it: leading and trailing spaces as ␣, what has no glyph by its number, and of a long
    one the beginning."""
    glyphs = _glyphs()
    inner = text.strip(" ")
    left = len(text) - len(text.lstrip(" "))
    text = "␣" * left + inner + "␣" * (len(text) - left - len(inner))
    text = "".join(c if c.isprintable() and ord(c) in glyphs else ascii(c)[1:-1] for c in text)
    return _plain(text if len(text) <= most else text[: most - 1] + "…")


@cache
def _glyphs() -> frozenset[int]:
    """The characters of the font that pictures are drawn with."""
    from matplotlib.font_manager import findfont, get_font

    return frozenset(get_font(findfont("DejaVu Sans")).get_charmap())


def _plain(text: str) -> str:
    """Text without meaning for matplotlib: a dollar is a dollar and no formula."""
    return text.replace("$", r"\$")


def _write(figure: Figure, path: str | Path) -> None:
    page = io.BytesIO()
    figure.savefig(page, format="png")
    atomic_write(Path(path), page.getvalue())
