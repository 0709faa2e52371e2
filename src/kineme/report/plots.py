"""Charts: curves as small inline SVG in the page's colours, the confusion matrix as PNG.

Promises: names are drawn as written (escaped in SVG, no mathtext in PNG); matplotlib is
imported only when the PNG is drawn, and opens no window and touches no global state.
Leaves out: skeletons (filmstrip.py) and the page (html.py).
"""

import html
import io
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kineme.engine.metrics import NO_ANSWER
from kineme.engine.names import read_metrics

Curve = Sequence[tuple[float, float]]
Curves = Mapping[str, Curve]
Place = Callable[[NDArray[np.float64]], NDArray[np.float64]]  # values (..., 2) -> page

_WIDTH, _HEIGHT = 460, 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 340, 16, 232  # of the plotted area
_NUM_COLOURS = 4  # classes c0 to c3 of the page


def read_history(path: str | Path) -> list[dict[str, float]]:
    """Rows of a metrics.csv (epochs from 0), finite numbers only; no readable file is no rows."""
    return [
        {key: float(text) for key, text in row.items() if key and _is_number(text)}
        for row in read_metrics(Path(path))
    ]


def curves_of(history: Sequence[Mapping[str, float]], ending: str) -> dict[str, Curve]:
    """Series (epoch from 1, value) of every column whose name ends with `ending`."""
    names = dict.fromkeys(key for row in history for key in row if key.endswith(ending))
    return {
        name: [(row.get("epoch", i) + 1, row[name]) for i, row in enumerate(history) if name in row]
        for name in names
    }


def draw_curves(curves: Mapping[str, Curve], *, x: str, y: str) -> str:
    """An SVG line chart of (x, y) points, each line named at its end; "" without points."""
    series = {
        name: np.array([point for point in curve if math.isfinite(point[1])], dtype=float)
        for name, curve in curves.items()
    }
    series = {name: points for name, points in series.items() if len(points)}
    if not series:
        return ""
    everything = np.concatenate(list(series.values()))
    x_ticks = round_ticks(everything[:, 0], 7, least=1)
    y_ticks = round_ticks(everything[:, 1], 5)
    low = np.array([min(everything[:, 0].min(), x_ticks[0]), y_ticks[0]])
    high = np.array([max(everything[:, 0].max(), x_ticks[-1]), y_ticks[-1]])

    def place(points: NDArray[np.float64]) -> NDArray[np.float64]:
        share = (points - low) / np.maximum(high - low, 1e-12)
        return np.asarray(share * (_RIGHT - _LEFT, _TOP - _BOTTOM) + (_LEFT, _BOTTOM))

    placed = {name: place(points) for name, points in series.items()}
    parts = [*_grid(x_ticks, y_ticks, place), *_lines(placed)]
    parts.append(f'<text class="axis" x="{_RIGHT}" y="{_HEIGHT - 4}" text-anchor="end">{x}</text>')
    spoken = "; ".join(
        f"{name}: {points[0, 1]:.3g} to {points[-1, 1]:.3g}" for name, points in series.items()
    )
    return (
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{html.escape(f"{y} over {x}. {spoken}")}">{"".join(parts)}</svg>'
    )


def render_confusion_png(confusion: NDArray[np.int64], class_names: Sequence[str]) -> bytes:
    """A heat map, rows true and columns predicted, coloured by the share of each row.

    confusion: (K, K), or (K, K + 1) with a last column of samples without an answer.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    num_classes = len(class_names)
    side = min(max(0.34 * num_classes + 2.4, 4.2), 26)
    figure = Figure(figsize=(side, side), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(xlabel="predicted", ylabel="true")
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelsize=8 if num_classes <= 60 else 5)
    names = [name if len(name) <= 28 else f"{name[:27]}…" for name in class_names]
    columns = [*names, NO_ANSWER][: confusion.shape[1]]
    axes.set_xticks(range(len(columns)), columns, rotation=90)
    axes.set_yticks(range(num_classes), names)
    for label in [*axes.get_xticklabels(), *axes.get_yticklabels()]:
        label.set_parse_math(False)
    if num_classes <= 60:
        for i, j in zip(*np.nonzero(confusion), strict=True):
            ink = "white" if shares[i, j] > 0.55 else "black"
            axes.text(j, i, str(confusion[i, j]), ha="center", va="center", fontsize=7, color=ink)
    buffer = io.BytesIO()
    with warnings.catch_warnings():  # a script that the font lacks is drawn as boxes
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(buffer, format="png", dpi=130, bbox_inches="tight")
    return buffer.getvalue()


def round_ticks(values: NDArray[np.float64], count: int, *, least: float = 0.0) -> list[float]:
    """About `count` round numbers around the values, `least` or more apart."""
    low, high = float(values.min()), float(values.max())
    rough = max((high - low) / count, abs(high) * 1e-3, 1e-9, least)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, max(last, first + 1) + 1)]


def _grid(x_ticks: Sequence[float], y_ticks: Sequence[float], place: Place) -> Iterator[str]:
    for value in y_ticks:
        y = place(np.array([x_ticks[0], value]))[1]
        yield f'<path class="grid" d="M{_LEFT} {y:.1f}H{_RIGHT}"/>'
        yield f'<text x="{_LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>'
    for value in x_ticks:
        x = place(np.array([value, y_ticks[0]]))[0]
        yield f'<text x="{x:.1f}" y="{_BOTTOM + 18}" text-anchor="middle">{value:g}</text>'


def _lines(placed: Mapping[str, NDArray[np.float64]]) -> Iterator[str]:
    """Lines, and their names at the right, pushed apart where they would overlap."""
    below = -math.inf
    ends = {name: i % _NUM_COLOURS for i, name in enumerate(placed)}
    for name, points in sorted(placed.items(), key=lambda item: item[1][-1, 1]):
        colour = f"c{ends[name]}"
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        yield f'<path class="line {colour}" d="M{path}"/>'
        if len(points) < 16:
            yield from (
                f'<circle class="{colour}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in points
            )
        below = max(float(points[-1, 1]), below + 16)
        yield (
            f'<text class="name {colour}" x="{points[-1, 0] + 9:.1f}" y="{below + 4:.1f}">'
            f"{html.escape(name)}</text>"
        )


def _is_number(text: str | None) -> bool:
    try:
        return math.isfinite(float(text or "nan"))
    except ValueError:
        return False
