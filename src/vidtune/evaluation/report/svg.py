"""Plots as inline SVG: positions across are in percent, so that lines and text keep their size at every width.

Colours are classes of the style sheet. Text from outside is escaped by the XML writer.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from xml.etree.ElementTree import Element, SubElement, tostring

from markupsafe import Markup

from vidtune.evaluation.report.charts import Curve
from vidtune.evaluation.report.shown import Shown
from vidtune.evaluation.statistics import Estimate

COLOURS = 8
LANE, RADIUS, SMALL_RADIUS = 20, 7.5, 4.5
_HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 230, 11.0, 95.0, 16, 34
Axis = tuple[float, float, tuple[float, ...]]
"""Low end, high end, and where lines stand."""


def letter(place: int) -> str:
    """Letter of a run: A to Z, then A1, B1, ..."""
    return chr(ord("A") + place % 26) + (str(place // 26) if place >= 26 else "")


def colour(place: int) -> str:
    """Class of the style sheet with the colour of a run."""
    return f"run{place % COLOURS}"


def axis_of(metric: Shown) -> Axis:
    """Axis from 0 to the largest possible value."""
    return 0.0, metric.top, tuple(metric.top * quarter / 4 for quarter in range(5))


def axis_around_zero(estimates: Sequence[Estimate | None]) -> Axis:
    """Axis with equal room on both sides of 0, for differences."""
    reach = max((abs(number) for one in estimates if one is not None for number in _ends(one)), default=0.0) or 1.0
    step = _nice(reach / 2)
    end = step * math.ceil(reach / step - 1e-9)
    return -end, end, tuple(step * n for n in range(-round(end / step), round(end / step) + 1))


def lanes(values: Sequence[Estimate | None], axis: Axis, metric: Shown, place: int | None = None) -> Markup:
    """Values with intervals, each in a lane of its own.

    Args:
        place: number of the run that all are of; None: they are of the first run, the second, ..., and get its letter.
    """
    height = LANE * len(values)
    root = Element("svg", {"class": "lanes", "height": str(height), "width": "100%", "aria-hidden": "true"})
    for tick in axis[2]:
        line = {"x1": _across(tick, axis), "x2": _across(tick, axis), "y1": "0", "y2": str(height)}
        SubElement(root, "line", {"class": "zero" if tick == 0 > axis[0] else "grid", **line})
    for lane, value in enumerate(values):
        if value is not None:
            _mark(root, value, LANE * (lane + 0.5), axis, metric, lane if place is None else place, place is None)
    return Markup(tostring(root, encoding="unicode"))


def ticks(axis: Axis, metric: Shown) -> Markup:
    """The numbers below an axis."""
    root = Element("svg", {"class": "ticks", "height": "16", "width": "100%", "aria-hidden": "true"})
    sign = axis[0] < 0
    for tick in axis[2]:
        text = SubElement(root, "text", {"x": _across(tick, axis), "y": "12", "text-anchor": "middle"})
        text.text = (f"{tick:+g}" if sign and tick else f"{tick:g}").replace("-", "−")
    return Markup(tostring(root, encoding="unicode"))


def curve(plot: Curve) -> Markup:
    """Lines over a number; intervals are whiskers."""
    points = [point for line in plot.lines.values() for point in line]
    axis = _fitted([value for _, value in points], plot.metric)
    numbers = sorted({number for number, _ in points})
    label = "; ".join(
        f"{f'{name}: ' if name else ''}"
        + ", ".join(f"{plot.metric.text(value.value)} at {number:g}" for number, value in line)
        for name, line in plot.lines.items()
    )
    shape = {"class": "curve", "height": str(_HEIGHT), "width": "100%", "role": "img"}
    root = Element("svg", {**shape, "aria-label": f"{plot.metric.label} over {plot.across}: {label}"})
    for tick in axis[2]:
        y = _up(tick, axis)
        SubElement(root, "line", {"class": "grid", "x1": f"{_LEFT - 3}%", "x2": "100%", "y1": y, "y2": y})
        where = {"x": f"{_LEFT - 4}%", "y": y, "dy": "4", "text-anchor": "end"}
        SubElement(root, "text", where).text = f"{tick:g}"
    for number in _labelled(numbers):
        where = {"x": _along(number, numbers), "y": str(_HEIGHT - _BOTTOM + 20), "text-anchor": "middle"}
        SubElement(root, "text", where).text = f"{number:g}"
    for place, line in enumerate(plot.lines.values()):
        _line(root, line, axis, numbers, plot, place)
    return Markup(tostring(root, encoding="unicode"))


def _line(
    root: Element,
    points: Sequence[tuple[float, Estimate]],
    axis: Axis,
    numbers: Sequence[float],
    plot: Curve,
    place: int,
) -> None:
    for (one, first), (other, second) in pairwise(points):
        ends = {"x1": _along(one, numbers), "x2": _along(other, numbers)}
        heights = {"y1": _up(first.value, axis), "y2": _up(second.value, axis)}
        SubElement(root, "line", {"class": f"stroke {colour(place)}", **ends, **heights})
    for number, value in points:
        x = _along(number, numbers)
        if value.low is not None and value.high is not None:
            reach = {"x1": x, "x2": x, "y1": _up(value.low, axis), "y2": _up(value.high, axis)}
            SubElement(root, "line", {"class": f"whisker {colour(place)}", **reach})
        dot = SubElement(
            root, "circle", {"class": f"dot {colour(place)}", "cx": x, "cy": _up(value.value, axis), "r": "5"}
        )
        text = f"{plot.across} {number:g}: {plot.metric.text(value.value)} {plot.metric.interval(value)}"
        SubElement(dot, "title").text = text


def _mark(root: Element, value: Estimate, y: float, axis: Axis, metric: Shown, place: int, lettered: bool) -> None:
    group = SubElement(root, "g", {"class": colour(place)})
    SubElement(group, "title").text = f"{letter(place)}: {metric.text(value.value)} {metric.interval(value)}"
    if value.low is not None and value.high is not None:
        low, high = _across(value.low, axis), _across(value.high, axis)
        SubElement(group, "line", {"class": "whisker", "x1": low, "x2": high, "y1": f"{y:g}", "y2": f"{y:g}"})
        for end in (low, high):
            cap = {"x1": end, "x2": end, "y1": f"{y - 4:g}", "y2": f"{y + 4:g}"}
            SubElement(group, "line", {"class": "whisker", **cap})
    x = _across(value.value, axis)
    radius = RADIUS if lettered else SMALL_RADIUS
    SubElement(group, "circle", {"class": "mark", "cx": x, "cy": f"{y:g}", "r": str(radius)})
    if lettered:
        text = SubElement(group, "text", {"class": "letter", "x": x, "y": f"{y + 4:g}", "text-anchor": "middle"})
        text.text = letter(place)


def _across(number: float, axis: Axis) -> str:
    low, high, _ = axis
    return f"{100 * (min(max(number, low), high) - low) / (high - low):.2f}%"


def _along(number: float, numbers: Sequence[float]) -> str:
    """Place of a number of a curve: by its logarithm where the numbers span a factor of 8 or more."""
    first, last = numbers[0], numbers[-1]
    if first == last:
        return f"{(_LEFT + _RIGHT) / 2}%"
    if first > 0 and last / first >= 8:
        number, first, last = (math.log(one) for one in (number, first, last))
    return f"{_LEFT + (_RIGHT - _LEFT) * (number - first) / (last - first):.2f}%"


def _labelled(numbers: Sequence[float]) -> list[float]:
    """Numbers that are written below a curve: those that do not touch the one before, and the last one."""
    kept: list[float] = []
    for number in reversed(numbers):
        x = float(_along(number, numbers).rstrip("%"))
        if not kept or float(_along(kept[-1], numbers).rstrip("%")) - x >= 9:
            kept.append(number)
    return kept


def _up(number: float, axis: Axis) -> str:
    low, high, _ = axis
    return f"{_HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * (number - low) / (high - low):.1f}"


def _fitted(estimates: Sequence[Estimate], metric: Shown) -> Axis:
    """Axis that holds the values and their intervals, with a line at round numbers."""
    numbers = [number for one in estimates for number in _ends(one)]
    low, high = min(numbers), max(numbers)
    step = _nice(((high - low) or metric.top / 10) / 4)
    first, last = math.floor(low / step), math.ceil(high / step)
    last += first == last
    return first * step, last * step, tuple(round(step * n, 10) for n in range(first, last + 1))


def _ends(one: Estimate) -> tuple[float, ...]:
    return tuple(number for number in (one.low, one.value, one.high) if number is not None)


def _nice(number: float) -> float:
    """The smallest of 1, 2, 5, 10, 20, ... (and their tenths) that is not below the number."""
    power = 10.0 ** math.floor(math.log10(number))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= number * (1 - 1e-9))
