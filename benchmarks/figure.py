"""The pictures of a benchmark, as SVG: the same figures give the same bytes."""

from __future__ import annotations

import io
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator
from matplotlib.transforms import Bbox

from benchmarks.results import Bench, Measured
from benchmarks.scaling import Scaling

# the colours of docs/figures/round.svg
_OURS, _INK, _GREY, _WARM = "#0969da", "#1b1f24", "#57606a", "#bc4c00"
_FONT_POINTS = 11.0
_STYLE: dict[Any, Any] = {
    "font.size": _FONT_POINTS,
    "axes.edgecolor": _GREY,
    "axes.labelcolor": _INK,
    "xtick.color": _GREY,
    "ytick.color": _GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "ppfl bench",
}
_GAP_POINTS = 10.0  # from a point to its label
_NEAR_POINTS = 7.0  # a label that is moved further up or down is tied to its point
_TICKS = {
    **{1e-3: "1 ms", 1e-2: "10 ms", 0.1: "0.1 s", 1.0: "1 s", 10.0: "10 s", 60.0: "1 min"},
    **{600.0: "10 min", 3600.0: "1 h", 36_000.0: "10 h", 864_000.0: "10 d"},
}
_DURATIONS = ((86_400.0, "d"), (3600.0, "h"), (60.0, "min"), (1.0, "s"), (1e-3, "ms"))


def draw_systems(bench: Bench) -> str:
    """Every system as a point: bytes up, and seconds to seal and open, all work counted."""
    rows = [row for row in bench.measured if not row.ahead]
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(6.4, 5.0), layout="constrained")
        axes = figure.subplots()
        _set_axes(axes, rows)
        for row in rows:
            colour = _colour(row)
            axes.plot(
                _megabytes(row),
                _seconds(row),
                marker="o",
                markersize=11 if row.ours else 8,
                markerfacecolor="white" if row.extrapolated else colour,
                markeredgecolor=colour,
                markeredgewidth=1.8,
                zorder=3,
            )
        _write_legend(figure, axes, rows)
        _write_labels(figure, axes, rows)
        return _svg(figure)


def draw_scaling(scaling: Scaling) -> str:
    """Seconds to seal and to open by values, and the coordinator's memory by sites."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(6.4, 2.9), layout="constrained")
        left, right = figure.subplots(1, 2)
        left.set(xscale="log", yscale="log", xlabel="values in an update")
        left.set_title("a site's time", fontsize=_FONT_POINTS, loc="left")
        _draw_line(left, scaling, "open", _WARM, (-8, 6))
        _draw_line(left, scaling, "seal", _OURS, (8, -14))
        left.margins(0.08)
        _set_time_axis(left.yaxis)
        known = [(p.sites, p.peak_mb) for p in scaling.sites if p.peak_mb is not None]
        updates = [(p.sites, p.up_bytes / 1e6) for p in scaling.sites]
        for name, line, colour in (("at most", known, _OURS), ("one update", updates, _GREY)):
            right.plot([x for x, _ in line], [y for _, y in line], "o-", color=colour)
            if line:
                right.annotate(
                    name,
                    line[-1],
                    xytext=(0, 8),
                    textcoords="offset points",
                    ha="right",
                    color=colour,
                )
        top = max(megabytes for _, megabytes in known + updates)
        right.set(xscale="log", xlabel="sites", ylim=(0, 1.4 * top))
        right.set_title("the coordinator's memory, MB", fontsize=_FONT_POINTS, loc="left")
        right.xaxis.set_major_locator(FixedLocator([point.sites for point in scaling.sites]))
        right.xaxis.set_minor_locator(NullLocator())
        right.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
        for axes in (left, right):
            axes.grid(alpha=0.25)
            axes.set_axisbelow(True)
        return _svg(figure)


def _draw_line(
    axes: Axes, scaling: Scaling, name: str, colour: str, offset: tuple[float, float]
) -> None:
    points = scaling.values
    y = [getattr(point, f"{name}_s") for point in points]
    axes.plot([point.values for point in points], y, "-", color=colour)
    for point, seconds in zip(points, y, strict=True):
        face = "white" if point.extrapolated else colour
        axes.plot(point.values, seconds, "o", markerfacecolor=face, markeredgecolor=colour)
    middle = len(points) // 2
    axes.annotate(
        name,
        (points[middle].values, y[middle]),
        xytext=offset,
        textcoords="offset points",
        ha="right" if offset[0] < 0 else "left",
        color=colour,
    )


def _set_axes(axes: Axes, rows: list[Measured]) -> None:
    axes.set(xscale="log", yscale="log")
    if rows:
        megabytes, seconds = [_megabytes(r) for r in rows], [_seconds(r) for r in rows]
        # room at the right, where labels stand
        axes.set_xlim(min(megabytes) / 1.8, max(megabytes) * 4)
        axes.set_ylim(min(seconds) / 4, max(seconds) * 4)
    axes.set_xlabel("MB up, a site and round")
    axes.set_title("time to seal and open one update", fontsize=_FONT_POINTS, loc="left")
    axes.xaxis.set_major_locator(LogLocator(10))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,g}"))
    _set_time_axis(axes.yaxis)
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)


def _set_time_axis(axis: Axis) -> None:
    axis.set_major_locator(FixedLocator(list(_TICKS)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda seconds, _: _TICKS.get(seconds, "")))


def _write_labels(figure: Figure, axes: Axes, rows: list[Measured]) -> None:
    """A label beside each point, at the first place where it touches neither point nor label."""
    figure.draw_without_rendering()  # only then is it known where points lie
    scale = 72 / figure.dpi
    points = {
        row.name: axes.transData.transform((_megabytes(row), _seconds(row))) * scale for row in rows
    }
    inside = Bbox(axes.bbox.get_points() * scale)
    taken = [Bbox.from_extents(x - 7, y - 7, x + 7, y + 7) for x, y in points.values()]
    for row in rows:
        text = f"{row.label}, {_duration(_seconds(row))}"
        weight: Literal["bold", "normal"] = "bold" if row.ours else "normal"
        width = TextPath((0, 0), text, _FONT_POINTS, prop=FontProperties(weight=weight))
        x, y = points[row.name]
        dx, dy, box = _find_place(x, y, width.get_extents().width, taken, inside)
        taken.append(box)
        axes.annotate(
            text,
            (_megabytes(row), _seconds(row)),
            xytext=(dx, dy),
            textcoords="offset points",
            va="center",
            color=_colour(row),
            fontweight=weight,
            arrowprops=_leader(on_left=dx < 0) if abs(dy) > _NEAR_POINTS else None,
        )


def _leader(*, on_left: bool) -> dict[str, Any]:
    """A thin line from a point to the nearer end of its label."""
    end = (1.0 if on_left else 0.0, 0.5)
    return {"arrowstyle": "-", "color": _GREY, "lw": 0.7, "relpos": end, "shrinkA": 0}


def _find_place(
    x: float, y: float, width: float, taken: list[Bbox], inside: Bbox
) -> tuple[float, float, Bbox]:
    """How far a label starts from its point, in points, and the box it fills."""
    half = _FONT_POINTS * 0.6
    places = []
    for dy in sorted(np.arange(-60.0, 60.0, 3.0), key=abs):
        for dx in (_GAP_POINTS, -_GAP_POINTS - width):
            left, middle = x + dx, y + dy
            box = Bbox.from_extents(left, middle - half, left + width, middle + half)
            places.append((dx, dy, box))
            within = inside.x0 <= box.x0 and box.x1 <= inside.x1
            if within and not any(box.overlaps(other) for other in taken):
                return places[-1]
    return places[0]


def _write_legend(figure: Figure, axes: Axes, rows: list[Measured]) -> None:
    meanings = (
        (_OURS, "ppfl"),
        (_GREY, "others; only the sites read the sum"),
        (_WARM, "the coordinator reads the sum"),
    )
    for colour, meaning in meanings:
        if any(_colour(row) == colour for row in rows):
            axes.plot([], [], "o", color=colour, label=meaning)
    if any(row.extrapolated for row in rows):
        axes.plot([], [], "o", mfc="white", mec=_GREY, label="extrapolated from a sample")
    if rows:
        figure.legend(loc="outside lower center", ncols=2, frameon=False, handletextpad=0.2)


def _colour(row: Measured) -> str:
    if row.ours:
        return _OURS
    return _GREY if row.readers == "the sites" else _WARM


def _megabytes(row: Measured) -> float:
    return row.up_bytes / 1e6


def _seconds(row: Measured) -> float:
    return row.seal.wall_s + row.open.wall_s


def _duration(seconds: float) -> str:
    """A time in the unit that suits it: 6.1 ms, 1.9 s, 15 min, 23 h."""
    size, unit = next((i for i in _DURATIONS if seconds >= i[0] * 0.9995), _DURATIONS[-1])
    number = seconds / size
    return f"{number:.1f} {unit}" if number < 9.95 else f"{number:.0f} {unit}"


def _svg(figure: Figure) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()
