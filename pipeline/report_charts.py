"""Charts as inline SVG, which take their colours and fonts from the page they stand in.

Promises: equal data give equal text; texts are escaped; a chart has a title for those who cannot see it, and tells its
series apart by more than colour.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, HEIGHT = 420, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 68, 12, 12, 40
MOST_SERIES = 6  # colours that the page has
MOST_DOTS = 1_500


@dataclass(frozen=True, kw_only=True)
class Axis:
    """An axis: what it shows, and from where to where; None takes that from the data."""

    title: str
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True)
class Series:
    """Points of one kind, by x; `marks` draws a dot for each, `line` joins them."""

    points: Sequence[tuple[float, float]]
    line: bool = True
    marks: bool = True


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A bar over a stretch of x, with the bounds of an interval where there is one."""

    low: float
    high: float
    value: float
    interval: tuple[float, float] | None = None


def line_chart(title: str, x: Axis, y: Axis, series: Sequence[Series], *, diagonal: bool = False) -> Markup:
    """Draw lines or dots over x.

    Args:
        title: for those who cannot see the chart.
        x: the lower axis.
        y: the left axis.
        series: at most MOST_SERIES.
        diagonal: draw the line on which y is x.
    """
    points = [point for each in series for point in each.points]
    frame = _Frame.around(x, y, points)
    parts = [frame.drawn()]
    if diagonal:
        low, high = max(frame.x[0], frame.y[0]), min(frame.x[1], frame.y[1])
        parts.append(_line("guide", frame.at(low, low), frame.at(high, high)))
    for place, each in enumerate(series):
        spots = [frame.at(*point) for point in each.points]
        if each.line and len(spots) > 1:
            path = " ".join(f"{_n(left)},{_n(top)}" for left, top in spots)
            parts.append(Markup('<polyline class="line s{}" points="{}"/>').format(place, path))
        if each.marks:
            parts += [_mark(place, spot) for spot in spots]
    return _svg(title, parts)


def bar_chart(title: str, x: Axis, y: Axis, bars: Sequence[Bar], names: Sequence[str] = ()) -> Markup:
    """Draw bars over stretches of x, from 0 up, with the bounds of their intervals.

    Args:
        title: for those who cannot see the chart.
        x: the lower axis.
        y: the left axis.
        bars: from left to right.
        names: of the bars, in place of numbers along the lower axis.
    """
    ends = [(bar.low, 0.0) for bar in bars] + [(bar.high, bar.value) for bar in bars]
    ends += [(bar.low, bar.interval[1]) for bar in bars if bar.interval is not None]
    frame = _Frame.around(x, y, ends)
    middles = [(bar.low + bar.high) / 2 for bar in bars]
    parts = [frame.drawn(tuple(zip(middles, names, strict=True)) if names else None)]
    for bar in bars:
        left, top = frame.at(bar.low, bar.value)
        right, bottom = frame.at(bar.high, 0.0)
        width, height = max(right - left - 1, 0.5), max(bottom - top, 0)
        parts.append(
            Markup('<rect class="bar" x="{}" y="{}" width="{}" height="{}"/>').format(
                *map(_n, (left, top, width, height))
            )
        )
        if bar.interval is not None:
            middle = (bar.low + bar.high) / 2
            parts.append(_line("whisker", frame.at(middle, bar.interval[0]), frame.at(middle, bar.interval[1])))
    return _svg(title, parts)


def interval_mark(value: float, low: float, high: float, bounds: tuple[float, float]) -> Markup:
    """Draw a value and its interval on a line from one bound to the other, for a table's cell."""
    span = (bounds[1] - bounds[0]) or 1.0

    def place(number: float) -> str:
        return _n(4 + 112 * min(1.0, max(0.0, (number - bounds[0]) / span)))

    return Markup(
        '<svg class="mini" viewBox="0 0 120 16" width="120" height="16" aria-hidden="true">'
        '<line class="track" x1="4" y1="8" x2="116" y2="8"/>'
        '<line class="range" x1="{}" y1="8" x2="{}" y2="8"/><circle class="dot" cx="{}" cy="8" r="3.5"/></svg>'
    ).format(place(low), place(high), place(value))


def share_mark(share: float) -> Markup:
    """Draw a bar as long as a share, from 0 to 1, for a table's cell."""
    return Markup(
        '<svg class="mini" viewBox="0 0 80 16" width="80" height="16" aria-hidden="true">'
        '<rect class="well" x="0" y="4" width="80" height="8" rx="2"/>'
        '<rect class="bar" x="0" y="4" width="{}" height="8" rx="2"/></svg>'
    ).format(_n(80 * min(1.0, max(0.0, share))))


def ticks(low: float, high: float, wanted: int = 5) -> tuple[float, ...]:
    """Return round numbers from `low` to `high`, about as many as wanted, ascending."""
    if not high > low:
        return (low,)
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return tuple(round(place * step, 12) for place in range(first, last + 1))


@dataclass(frozen=True, kw_only=True)
class _Frame:
    """The axes of a chart, and where on it a point lies."""

    x: tuple[float, float]
    y: tuple[float, float]
    titles: tuple[str, str]

    @staticmethod
    def around(x: Axis, y: Axis, points: Sequence[tuple[float, float]]) -> _Frame:
        return _Frame(
            x=_range(x, [point[0] for point in points]),
            y=_range(y, [point[1] for point in points]),
            titles=(x.title, y.title),
        )

    def at(self, x: float, y: float) -> tuple[float, float]:
        across = (x - self.x[0]) / (self.x[1] - self.x[0])
        up = (y - self.y[0]) / (self.y[1] - self.y[0])
        return _LEFT + across * (WIDTH - _LEFT - _RIGHT), HEIGHT - _BOTTOM - up * (HEIGHT - _TOP - _BOTTOM)

    def drawn(self, names: Sequence[tuple[float, str]] | None = None) -> Markup:
        """Draw the axes, with names along the lower one, or else round numbers."""
        parts = []
        floor, right = HEIGHT - _BOTTOM, WIDTH - _RIGHT
        for value in ticks(*self.y):
            _, top = self.at(self.x[0], value)
            parts.append(_line("grid", (_LEFT, top), (right, top)))
            parts.append(_text("end", _LEFT - 6, top + 4, _short(value)))
        for value, name in names or [(value, _short(value)) for value in ticks(*self.x)]:
            left, _ = self.at(value, self.y[0])
            parts.append(_line("grid", (left, floor), (left, floor + 4)))
            parts.append(_text("middle", left, floor + 17, name))
        parts.append(_line("axis", (_LEFT, floor), (right, floor)))
        parts.append(_text("middle", (_LEFT + right) / 2, HEIGHT - 5, self.titles[0], "title"))
        middle = (_TOP + floor) / 2
        turned = Markup('<g transform="translate(12 {}) rotate(-90)">{}</g>')
        parts.append(turned.format(_n(middle), _text("middle", 0, 0, self.titles[1], "title")))
        return Markup("").join(parts)


def _range(axis: Axis, values: Sequence[float]) -> tuple[float, float]:
    """Return the ends of an axis: given ones, or a little beyond the data."""
    low = min(values, default=0.0) if axis.low is None else axis.low
    high = max(values, default=1.0) if axis.high is None else axis.high
    room = (high - low) * 0.05 or abs(high) * 0.05 or 0.5
    return low - (room if axis.low is None else 0), high + (room if axis.high is None else 0)


def _svg(title: str, parts: Sequence[Markup]) -> Markup:
    return Markup('<svg class="plot" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, HEIGHT, title, Markup("").join(parts)
    )


def _line(name: str, start: tuple[float, float], end: tuple[float, float]) -> Markup:
    return Markup('<line class="{}" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(name, *map(_n, (*start, *end)))


def _mark(series: int, spot: tuple[float, float]) -> Markup:
    return Markup('<circle class="mark s{}" cx="{}" cy="{}" r="2.6"/>').format(series, *map(_n, spot))


def _text(anchor: str, left: float, top: float, text: str, name: str = "tick") -> Markup:
    return Markup('<text class="{}" text-anchor="{}" x="{}" y="{}">{}</text>').format(
        name, anchor, _n(left), _n(top), escape(text)
    )


def _n(number: float) -> str:
    """Write a coordinate with a tenth of a unit: finer, no eye can tell."""
    return f"{number:.1f}".removesuffix(".0")


def _short(value: float) -> str:
    if value and not 1e-3 <= abs(value) < 1e6:
        return f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e")
    if abs(value) >= 10_000:
        return f"{value / 1000:g}k"
    return f"{value:.6g}"
