"""The sheet that every picture is drawn on: the house's colours, its frame, text as a picture can show it, the PNG.

matplotlib is loaded by the first picture only. Figures are objects of their own, with no global state, so a picture
can be drawn from any thread and needs no screen.
"""

from __future__ import annotations

import io
import textwrap
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from groundup.core.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

COLOURS = ("#9aa5b1", "#2f6fb2", "#e08a3c", "#3f9b6c", "#b0487a", "#6d5fb5")
INK, QUIET, GRID = "#22303c", "#5f6c78", "#e3e8ed"


def sheet(width: float, height: float, title: str) -> tuple[Figure, Axes]:
    """A figure in inches with one pair of axes, in the house's colours."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=160, layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    title = textwrap.fill(title, max(12, round(8.5 * (width - 1.4))))  # about so many bold letters fit an inch
    axes.set_title(plain(title), loc="left", fontsize=13, fontweight="bold", color=INK, pad=12)
    dress(axes)
    return figure, axes


def dress(axes: Axes) -> None:
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


def no_frame(axes: Axes) -> None:
    """A matrix needs no grid, no ticks and no frame."""
    axes.grid(visible=False)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def one_sided() -> Colormap:
    """Shades of blue for numbers from nought up."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("house", ["#f6f8fa", "#a9c6e3", "#2f6fb2", "#173f6b"])


def two_sided() -> Colormap:
    """Orange below nought, blue above."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("house2", ["#9c4f12", "#e8a466", "#f6f8fa", "#7fabd6", "#173f6b"])


def visible(text: str, most: int = 40) -> str:
    """A token as a picture can show it: leading and trailing spaces as ␣, what has no glyph by its number, and of a long
    one the beginning."""
    glyphs = _glyphs()
    inner = text.strip(" ")
    left = len(text) - len(text.lstrip(" "))
    text = "␣" * left + inner + "␣" * (len(text) - left - len(inner))
    text = "".join(c if c.isprintable() and ord(c) in glyphs else ascii(c)[1:-1] for c in text)
    return plain(text if len(text) <= most else text[: most - 1] + "…")


@cache
def _glyphs() -> frozenset[int]:
    """The characters of the font that pictures are drawn with."""
    from matplotlib.font_manager import findfont, get_font

    return frozenset(get_font(findfont("DejaVu Sans")).get_charmap())


def plain(text: str) -> str:
    """Text without meaning for matplotlib: a dollar is a dollar and no formula."""
    return text.replace("$", r"\$")


def write(figure: Figure, path: str | Path) -> None:
    """The figure as a PNG, whole or not at all."""
    page = io.BytesIO()
    figure.savefig(page, format="png")
    atomic_write(Path(path), page.getvalue())
