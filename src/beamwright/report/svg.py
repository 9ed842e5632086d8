"""Plots as SVG: colours come from classes, so the page's style decides them for light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from beamwright.report.markup import Markup, tag

Row = dict[str, Any]
WIDTH, HEIGHT = 460, 290
LEFT, RIGHT, TOP, BOTTOM = 64, 14, 12, 44
COLOURS = 8


def plot(figure: Row) -> Markup:
    """Draw a plot of the figures' document."""
    curves = [curve for curve in figure["curves"] if curve["x"] and curve["y"]]
    if not curves:
        return tag("p", "nothing to draw: no entries", class_="empty")
    frame = _Frame(figure, curves)
    label = f"{figure['title']}: {figure['y']} against {figure['x']}"
    return tag(
        "svg",
        tag("title", label),
        [frame.band(low, high, name) for low, high, name in figure["bands"]],
        frame.grid(),
        [frame.curve(curve, number) for number, curve in enumerate(curves)],
        [frame.mark(x, name) for x, name in figure["marks"]],
        frame.labels(figure["x"], figure["y"]),
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        class_="plot",
    )


def legend(figure: Row) -> Markup:
    """Return the key to a plot's curves and bands; one curve needs none."""
    labels = [curve["label"] for curve in figure["curves"]]
    keys = [tag("span", tag("i", class_=f"key c{n % COLOURS}"), label) for n, label in enumerate(labels)]
    bands = dict.fromkeys(name for _, _, name in figure["bands"] if name)
    shown = (keys if len(keys) > 1 else []) + [
        tag("span", tag("i", class_="key shade"), name) for name in bands
    ]
    return tag("p", shown, class_="legend") if shown else Markup("")


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Return round values inside [low, high], about ``wanted`` of them."""
    span = high - low
    if span <= 0 or not math.isfinite(span):
        return [low]
    raw = span / wanted
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(n * step, 12) for n in range(first, math.floor(high / step + 1e-9) + 1)]


def number(value: float) -> str:
    """Return a tick's label."""
    if value and (abs(value) >= 1e5 or abs(value) < 1e-3):
        mantissa, _, exponent = f"{value:.1e}".partition("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    return f"{value:.6g}"


class _Frame:
    """The scales of one plot, and what is drawn with them."""

    def __init__(self, figure: Row, curves: list[Row]) -> None:
        self.log = bool(figure["log_y"])
        xs = [x for curve in curves for x in curve["x"] if x is not None]
        self.x0, self.x1 = _widened(min(xs), max(xs))
        self.y0, self.y1 = self._y_range(curves)

    def _y_range(self, curves: list[Row]) -> tuple[float, float]:
        ys = [y for curve in curves for y in _extent(curve)]
        if self.log:
            positive = [y for y in ys if y > 0] or [1.0]
            return min(positive) / 1.5, max(positive) * 2
        bars = any(curve["form"] in ("steps", "bars") for curve in curves)
        low, high = _widened(min(ys), max(ys))
        margin = 0.06 * (high - low)
        return (0.0 if bars and low >= 0 else low - margin), high + margin

    def x(self, value: float) -> float:
        return LEFT + (value - self.x0) / (self.x1 - self.x0) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        low, high = self.y0, self.y1
        if self.log:
            low, high, value = math.log10(low), math.log10(high), math.log10(max(value, low))
        return HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    def _y_ticks(self) -> list[float]:
        if not self.log:
            return ticks(self.y0, self.y1)
        first, last = math.ceil(math.log10(self.y0)), math.floor(math.log10(self.y1))
        return [10.0**power for power in range(first, last + 1)]

    def grid(self) -> list[Markup]:
        """Draw the axes with their ticks."""
        bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
        parts = []
        for value in self._y_ticks():
            y = self.y(value)
            parts.append(tag("line", x1=LEFT, x2=right, y1=y, y2=y, class_="gridline"))
            parts.append(tag("text", number(value), x=LEFT - 7, y=y + 4, class_="tick end"))
        for value in ticks(self.x0, self.x1, 6):
            x = self.x(value)
            parts.append(tag("line", x1=x, x2=x, y1=bottom, y2=bottom + 4, class_="axis"))
            parts.append(tag("text", number(value), x=x, y=bottom + 17, class_="tick middle"))
        parts.append(tag("line", x1=LEFT, x2=right, y1=bottom, y2=bottom, class_="axis"))
        return parts

    def labels(self, x: str, y: str) -> list[Markup]:
        """Draw the names of the axes."""
        middle = (TOP + HEIGHT - BOTTOM) / 2
        turned = f"rotate(-90 11 {middle:g})"
        return [
            tag("text", x, x=(LEFT + WIDTH - RIGHT) / 2, y=HEIGHT - 7, class_="label middle"),
            tag("text", y, x=11, y=middle, transform=turned, class_="label middle"),
        ]

    def band(self, low: float, high: float, name: str) -> Markup:
        """Shade what is acceptable along x."""
        left, right = (min(max(self.x(v), LEFT), WIDTH - RIGHT) for v in (low, high))
        height = HEIGHT - TOP - BOTTOM
        return tag(
            "rect",
            tag("title", name),
            x=left,
            y=TOP,
            width=max(right - left, 0.0),
            height=height,
            class_="band",
        )

    def mark(self, x: float, name: str) -> Markup:
        """Draw a named line across."""
        at = self.x(x)
        side = "end" if at > WIDTH * 0.65 else "start"
        offset = -5 if side == "end" else 5
        return tag(
            "g",
            tag("line", x1=at, x2=at, y1=TOP, y2=HEIGHT - BOTTOM, class_="mark"),
            tag("text", name, x=at + offset, y=TOP + 10, class_=f"note {side}"),
        )

    def curve(self, curve: Row, position: int) -> Markup:
        """Draw one curve in its form."""
        colour = f"c{position % COLOURS}"
        draw = {"steps": self._steps, "bars": self._bars, "points": self._points, "line": self._line}[
            curve["form"]
        ]
        return tag("g", draw(curve), tag("title", curve["label"]), class_=f"curve {colour} {curve['form']}")

    def _steps(self, curve: Row) -> list[Markup]:
        x, y = [self.x(v) for v in curve["x"]], [self.y(v or 0.0) for v in curve["y"]]
        base = self.y(self.y0 if self.log else max(self.y0, 0.0))
        path = [f"M{x[0]:.1f} {base:.1f}"]
        for left, right, top in zip(x, x[1:], y, strict=False):
            path.append(f"L{left:.1f} {top:.1f}H{right:.1f}")
        path.append(f"V{base:.1f}")
        return [tag("path", d="".join(path), class_="area"), tag("path", d="".join(path), class_="stroke")]

    def _bars(self, curve: Row) -> list[Markup]:
        base = self.y(max(self.y0, 0.0))
        bars = []
        for left, right, value in zip(curve["x"], curve["x"][1:], curve["y"], strict=False):
            x, width, top = self.x(left) + 1, self.x(right) - self.x(left) - 2, self.y(value or 0.0)
            bars.append(
                tag(
                    "rect", x=x, y=min(top, base), width=max(width, 0.5), height=abs(base - top), class_="bar"
                )
            )
        return bars

    def _line(self, curve: Row) -> list[Markup]:
        pairs = [
            (a, b) for a, b in zip(curve["x"], curve["y"], strict=True) if a is not None and b is not None
        ]
        path = "L".join(f"{self.x(a):.1f} {self.y(b):.1f}" for a, b in pairs)
        return [tag("path", d=f"M{path}", class_="stroke")] if pairs else []

    def _points(self, curve: Row) -> list[Markup]:
        marks = []
        errors = curve["error"] or [0.0] * len(curve["y"])
        radius = 3.5 if len(curve["y"]) <= 60 else 1.8
        for a, b, error in zip(curve["x"], curve["y"], errors, strict=True):
            if a is None or b is None:
                continue
            if error:
                y1, y2 = self.y(b - error), self.y(b + error)
                marks.append(tag("line", x1=self.x(a), x2=self.x(a), y1=y1, y2=y2, class_="stroke"))
            marks.append(tag("circle", cx=self.x(a), cy=self.y(b), r=radius, class_="dot"))
        return marks


def _extent(curve: Row) -> list[float]:
    errors: Sequence[float] = curve["error"] or [0.0] * len(curve["y"])
    known = [(y, e or 0.0) for y, e in zip(curve["y"], errors, strict=True) if y is not None]
    return [y - e for y, e in known] + [y + e for y, e in known] or [0.0]


def _widened(low: float, high: float) -> tuple[float, float]:
    """Return a range that is wide enough to divide by."""
    if high > low:
        return low, high
    margin = abs(low) * 0.1 or 1.0
    return low - margin, high + margin
