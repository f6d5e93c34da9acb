"""Pictures are drawn whole: a PNG of a sensible size, from any thread, and never from nonsense."""

import struct
import sys
import threading
from pathlib import Path

import pytest

from groundup.core import plots
from groundup.core.errors import UsageError


def size(path: Path) -> tuple[int, int]:
    """Width and height in pixels, from the PNG's header."""
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", head[16:24])


def test_loss_curve(tmp_path: Path) -> None:
    train = [(step, 3 / step) for step in range(1, 60)]
    plots.loss_curve(
        train, tmp_path / "a.png", validation=[(10, 0.4), (50, 0.2)], best=50, last=59, title="loss of $5 and $6"
    )
    width, height = size(tmp_path / "a.png")
    assert 800 < width < 2000 and 500 < height < 1200
    plots.loss_curve([(1, 2.0)], tmp_path / "b.png", last=1)
    plots.loss_curve([], tmp_path / "c.png", validation=[(1, 2.0)], best=1)
    with pytest.raises(UsageError, match="no loss"):
        plots.loss_curve([], tmp_path / "d.png")
    assert not (tmp_path / "d.png").exists()


def test_confusion(tmp_path: Path) -> None:
    plots.confusion(["a", "b$_"], [[1, 0, 0], [2, 3, 1]], tmp_path / "a.png")
    plots.confusion(["entertainment", "business"], [[1, 0], [2, 300]], tmp_path / "b.png")
    assert size(tmp_path / "b.png")[0] > 400
    with pytest.raises(UsageError, match="even lines"):
        plots.confusion(["a", "b"], [[1, 0]], tmp_path / "c.png")


def test_bars(tmp_path: Path) -> None:
    plots.bars(["x", "y"], {"one": [(0.5, 0.4, 0.6), None], "two": [None, (1.0, 0.9, 1.0)]}, tmp_path / "a.png")
    assert size(tmp_path / "a.png")[0] > 600
    with pytest.raises(UsageError, match="as many values"):
        plots.bars(["x", "y"], {"one": [(0.5, 0.4, 0.6)]}, tmp_path / "b.png")


def test_panels(tmp_path: Path) -> None:
    scores = [(0.1, 0.1, 0.1), (0.8, 0.7, 0.9), None]
    numbers = [None, (5e3, 5e3, 5e3), (1.3e8, 1.3e8, 1.3e8)]
    columns = {"score": (scores, "{:.2f}".format), "trained $": (numbers, "{:,.0f}".format)}
    plots.panels(["untouched", "prompt length=20", "full"], columns, tmp_path / "a.png", title="Methods", marked="full")
    assert size(tmp_path / "a.png")[0] > 700
    with pytest.raises(UsageError, match="as many values"):
        plots.panels(["one"], columns, tmp_path / "b.png", title="")


def test_no_global_state_and_any_thread(tmp_path: Path) -> None:
    failures: list[BaseException] = []

    def draw(name: str) -> None:
        try:
            plots.bars(["x"], {"one": [(0.5, 0.4, 0.6)]}, tmp_path / name)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=draw, args=(f"{i}.png",)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len({(tmp_path / f"{i}.png").read_bytes() for i in range(3)}) == 1
    assert "matplotlib.pyplot" not in sys.modules


def test_curves(tmp_path: Path) -> None:
    plots.curves({"a": [(64, 1.0), (128, 4.0)], "b$_": [(64, 2.0)]}, tmp_path / "a.png", title="cost", powers="xy")
    assert size(tmp_path / "a.png")[0] > 600
    with pytest.raises(UsageError, match="needs a point"):
        plots.curves({"a": []}, tmp_path / "b.png", title="nothing")
