"""Pictures of plain numbers: curves, scores with their intervals, points, and matrices. Each goes to a PNG.

They are drawn on `groundup.core.sheet`; those of matrices stand in `groundup.core.matrices`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from groundup.core.errors import UsageError
from groundup.core.matrices import confusion, heat, squares
from groundup.core.sheet import COLOURS, INK, QUIET, dress, plain, sheet, visible, write

__all__ = ["bars", "confusion", "curves", "heat", "loss_curve", "panels", "points", "rate_curve", "squares"]


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
    figure, axes = sheet(7.2, 4.2, title)
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
    write(figure, path)


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
    figure, axes = sheet(7.2, 4.2, title)
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
    write(figure, path)


def curves(
    series: Mapping[str, Sequence[tuple[float, float]]],
    path: str | Path,
    *,
    title: str,
    across: str = "",
    down: str = "",
    powers: str = "",
) -> None:
    """A line a series through its points (x, y). powers: the axes ("x", "y", "xy") on which equal factors are equally far."""
    if not series or not all(series.values()):
        raise UsageError("there is no curve to draw: each series needs a point at least")
    figure, axes = sheet(7.2, 4.6, title)
    for number, (name, found) in enumerate(series.items()):
        colour = COLOURS[(number + 1) % len(COLOURS)]
        axes.plot(*zip(*found, strict=True), color=colour, linewidth=2.0, marker="o", markersize=4.5, label=plain(name))
    places = sorted({x for found in series.values() for x, _ in found})
    if "x" in powers:
        axes.set_xscale("log", base=2)
        axes.set_xticks(places, [f"{x:g}" for x in places])
        axes.minorticks_off()
    if "y" in powers:
        axes.set_yscale("log")
    axes.set_xlabel(plain(across))
    axes.set_ylabel(plain(down))
    axes.legend(frameon=False, labelcolor=INK)
    write(figure, path)


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
    figure, axes = sheet(width, 4.4, title)
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
    axes.set_xticks(middles, [plain(group) for group in groups])
    axes.set_xlim(-1, at - 1)
    axes.set_ylim(0, 1.1)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
    axes.grid(visible=False, axis="x")
    axes.tick_params(axis="x", length=0)
    figure.legend(
        handles=[Patch(color=colour, label=plain(name)) for name, colour in colours.items()],
        loc="outside lower center",
        ncols=max(1, min(3, len(series), int(width / (0.7 + 0.085 * max(map(len, series)))))),  # what fits side by side
        frameon=False,
        labelcolor=INK,
        handlelength=1.2,
        handleheight=1.0,
    )
    write(figure, path)


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

    names = [visible(name, 36) for name in lines]
    width, height = 0.6 + 0.085 * max(map(len, names)) + 2.1 * len(columns), 1.35 + 0.42 * len(lines)
    figure = Figure(figsize=(width, height), dpi=160, layout="constrained", facecolor="white")
    figure.suptitle(plain(title), x=0.01, ha="left", fontsize=13, fontweight="bold", color=INK)
    every = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
    for axes, (name, (values, text)) in zip(every, columns.items(), strict=True):
        dress(axes)
        positive = [value[0] for value in values if value is not None and value[0] > 0]
        far = bool(positive) and max(positive) >= 100 * min(positive)
        axes.set_title(plain(name) + (", log scale" if far else ""), loc="left", fontsize=10, color=QUIET)
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
    write(figure, path)


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
    figure, axes = sheet(7.6, 5.6, title)
    kinds = list(dict.fromkeys(groups))
    for at, kind in enumerate(kinds):
        mine = [p for p, g in zip(places, groups, strict=True) if g == kind]
        colour = COLOURS[(at + 1) % len(COLOURS)]
        axes.scatter([x for x, _ in mine], [y for _, y in mine], s=34, color=colour, label=visible(kind), zorder=3)
    axes.margins(0.12)
    axes.set_xlabel(across)
    axes.set_ylabel(down)
    if len(kinds) > 1:
        figure.legend(loc="outside lower center", ncols=min(6, len(kinds)), frameon=False, labelcolor=INK)
    figure.draw_without_rendering()  # the axes have their place now
    spots = [(float(x), float(y)) for x, y in (axes.transData.transform(p) for p in places)]
    shown = [visible(name, 32) for name in names]
    for place, name, shift in zip(places, shown, _beside(spots, [len(name) for name in shown]), strict=True):
        axes.annotate(name, place, shift, textcoords="offset points", fontsize=9, color=INK, zorder=4)
    write(figure, path)


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
