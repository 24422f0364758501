"""The picture of a benchmark: word error rate against processing time, the Pareto front drawn and labelled."""

from __future__ import annotations

import importlib.util
import io
import itertools
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import RuntimeMissingError
from .figures import Row
from .report import count_threads, name

# Okabe and Ito's colours, told apart by the colour-blind too; one an engine.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = {"offline": "o", "stream": "s"}


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points that no other beats in both coordinates (lower is better), by the first coordinate."""
    front: list[int] = []
    best = float("inf")
    for index in sorted(range(len(points)), key=lambda i: points[i]):
        if points[index][1] < best:
            front.append(index)
            best = points[index][1]
    return front


def label(row: Row, rows: Sequence[Row]) -> str:
    """What tells a row from the others of its set, but for the mode, which the marker shows."""
    several = len({name(r) for r in rows if r.engine == row.engine}) > 1
    parts = [name(row) if several else row.engine]
    if len({r.decoder for r in rows if r.engine == row.engine}) > 1:
        parts.append(row.decoder.split(" ")[0])
    if row.threads > 1:
        parts.append(count_threads(row.threads))
    return ", ".join(parts)


def require_matplotlib() -> None:
    """Raise `RuntimeMissingError` when there is none."""
    if importlib.util.find_spec("matplotlib") is None:
        raise RuntimeMissingError("the picture needs matplotlib: pip install 'edge-stt[bench]'")


def plot(rows: Sequence[Row]) -> dict[str, bytes]:
    """The picture as ``{"png": …, "svg": …}``; one panel a set. Raises `RuntimeMissingError` without matplotlib."""
    require_matplotlib()
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    sets = list(dict.fromkeys(row.set for row in rows))
    engines = list(dict.fromkeys(row.engine for row in rows))
    out = {}
    # Texts stay texts in the SVG, and a fixed salt makes equal results equal files.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "edge-stt", "font.size": 9}):
        figure = Figure(figsize=(6.4 * len(sets), 4.4), layout="constrained")
        for axes, test_set in zip(figure.subplots(1, len(sets), squeeze=False)[0], sets, strict=True):
            _panel(axes, [row for row in rows if row.set == test_set], test_set, engines)
        for kind, canvas in (("png", FigureCanvasAgg(figure)), ("svg", FigureCanvasSVG(figure))):
            buffer = io.BytesIO()
            canvas.print_figure(buffer, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)
            out[kind] = buffer.getvalue()
    return out


def _panel(axes: Any, rows: Sequence[Row], title: str, engines: Sequence[str]) -> None:
    """One set: a point a row with its interval, and the front as a step line."""
    points = [(row.rtf, row.wer) for row in rows]
    front = pareto_front(points)
    axes.set_xscale("log")
    axes.set_title(title)
    axes.set_xlabel("processing time / duration of audio (RTF; left is faster)")
    axes.set_ylabel("word error rate, % (down is better)")
    axes.grid(True, which="both", alpha=0.25)
    steps = list(zip(*(points[i] for i in front), strict=True))
    axes.step(*steps, where="post", color="0.5", linewidth=1.2, zorder=1, label="Pareto front")
    for row in rows:
        colour = COLOURS[engines.index(row.engine) % len(COLOURS)]
        low, high = (row.wer if bound is None else bound for bound in (row.wer_low, row.wer_high))
        margins = [[max(0.0, row.wer - low)], [max(0.0, high - row.wer)]]
        axes.errorbar(row.rtf, row.wer, yerr=margins, fmt=MARKERS[row.mode], color=colour, capsize=2, zorder=2)
    axes.margins(x=0.3, y=0.15)
    axes.set_ylim(bottom=0.0)
    lows, highs = min(p[0] for p in points), max(p[0] for p in points)
    axes.set_xlim(lows / 3.0, highs * 3.0)
    for mode, marker in MARKERS.items():
        if any(row.mode == mode for row in rows):
            axes.plot([], [], marker, color="0.3", label=mode)
    axes.legend(loc="best", fontsize=8, framealpha=0.6)
    _place_labels(axes, rows, front)


def _place_labels(axes: Any, rows: Sequence[Row], front: Sequence[int]) -> None:
    """Write each label beside its point, further up or down until it covers no point, interval, front or label."""
    from matplotlib.text import Text

    axes.figure.draw_without_rendering()
    to_pixels = axes.transData.transform
    points = [(row.rtf, row.wer) for row in rows]
    obstacles = [to_pixels([p]) for p in points]
    for row in rows:
        low, high = (row.wer if bound is None else bound for bound in (row.wer_low, row.wer_high))
        obstacles.append(_along(to_pixels([(row.rtf, low), (row.rtf, high)])))
    for left, right in pairwise(front):
        (x0, y0), (x1, y1) = points[left], points[right]
        obstacles += [_along(to_pixels([(x0, y0), (x1, y0)])), _along(to_pixels([(x1, y0), (x1, y1)]))]
    covered = np.concatenate(obstacles)
    taken: list[Any] = []
    for i in sorted(range(len(rows)), key=lambda i: -rows[i].wer):
        # First a place that is free, then one that covers no other label at least, then any.
        for strict, step, side in itertools.product((True, False), range(1, 17), (1, -1)):
            written = axes.annotate(
                label(rows[i], rows),
                points[i],
                xytext=(7 * side, (step + 1) // 2 * 9 * (1 if step % 2 else -1)),
                textcoords="offset points",
                ha="left" if side == 1 else "right",
                va="center",
                fontsize=8,
                fontweight="bold" if i in front else "normal",
                arrowprops={"arrowstyle": "-", "color": "0.6", "linewidth": 0.6, "relpos": (0 if side == 1 else 1, 0.5)}
                if step > 2
                else None,
            )
            written.get_window_extent()  # puts the text in its place; of its extent the arrow may well cross a line
            box = Text.get_window_extent(written)
            inside = axes.bbox.x0 < box.x0 and box.x1 < axes.bbox.x1 and axes.bbox.y0 < box.y0 and box.y1 < axes.bbox.y1
            hits = strict and ((covered > (box.x0, box.y0)) & (covered < (box.x1, box.y1))).all(axis=1).any()
            last = (strict, step, side) == (False, 16, -1)
            if last or (inside and not hits and not any(box.overlaps(other) for other in taken)):
                taken.append(box)
                break
            written.remove()


def _along(ends: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Points on the line between two ends, close enough together that no label slips between."""
    return np.linspace(ends[0], ends[1], 200)
