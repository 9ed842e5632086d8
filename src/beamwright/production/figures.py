"""What an experiment tells about a finished production: values, tables and plots, as plain data.

An experiment's ``figures(access)`` returns these; the report draws them, ``--json`` writes them out.
Everything is JSON-ready and depends on the data alone: two equal productions give equal figures.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from beamwright.core.errors import UsageError
from beamwright.core.histogram import Histogram

Cell = str | int | float | bool | None
Numbers = Sequence[float] | NDArray[Any]
Form = Literal["steps", "line", "points", "bars"]


@dataclass(frozen=True)
class Value:
    """One number worth quoting: ``expected`` is the answer key, ``low`` and ``high`` what is acceptable."""

    name: str
    value: float | None
    unit: str = ""
    expected: float | None = None
    low: float | None = None
    high: float | None = None
    note: str = ""

    @property
    def verdict(self) -> str:
        """``good`` or ``bad`` by the limits, ``""`` where there are none or there is no value."""
        if self.value is None or (self.low is None and self.high is None):
            return ""
        inside = (self.low is None or self.value >= self.low) and (
            self.high is None or self.value <= self.high
        )
        return "good" if inside else "bad"


@dataclass(frozen=True)
class Table:
    """Rows under named columns; ``units`` stand below the names where there are any."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    units: tuple[str, ...] = ()
    note: str = ""

    def __post_init__(self) -> None:
        wrong = [row for row in self.rows if len(row) != len(self.columns)]
        if wrong or (self.units and len(self.units) != len(self.columns)):
            raise UsageError(
                f"table {self.title!r} has rows or units that are not {len(self.columns)} long",
                hint="one cell per column",
            )

    @classmethod
    def of(cls, title: str, columns: Sequence[str], rows: Iterable[Sequence[Cell]], **options: Any) -> Table:
        """Make a table from any sequences."""
        return cls(title, tuple(columns), tuple(tuple(row) for row in rows), **options)


@dataclass(frozen=True)
class Curve:
    """A line of a plot. ``steps`` and ``bars`` take n + 1 edges for n values; ``error`` is of ``y``."""

    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    form: Form = "line"
    error: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        wanted = len(self.y) + (1 if self.form in ("steps", "bars") else 0)
        if len(self.x) != wanted or (self.error and len(self.error) != len(self.y)):
            raise UsageError(
                f"curve {self.label!r}: {len(self.x)} x for {len(self.y)} y", hint="steps and bars take edges"
            )

    @classmethod
    def of(cls, label: str, x: Numbers, y: Numbers, form: Form = "line", error: Numbers = ()) -> Curve:
        """Make a curve from any sequences of numbers."""
        return cls(label, _floats(x), _floats(y), form, _floats(error))

    @classmethod
    def histogram(cls, histogram: Histogram, label: str = "", *, density: bool = False) -> Curve:
        """Return a one-dimensional histogram as steps; with ``density`` its area is one."""
        (axis,) = histogram.axes
        counts = histogram.values.astype(np.float64)
        total = counts.sum() * (axis.high - axis.low) / axis.bins
        values = counts / total if density and total else counts
        return cls.of(label or histogram.title or histogram.name, axis.edges(), values, "steps")


@dataclass(frozen=True)
class Plot:
    """Curves over axes ``x`` and ``y``; ``marks`` are (x, label) lines, ``bands`` (low, high, label) in x."""

    title: str
    x: str
    y: str
    curves: tuple[Curve, ...]
    marks: tuple[tuple[float, str], ...] = ()
    bands: tuple[tuple[float, float, str], ...] = ()
    log_y: bool = False
    note: str = ""
    verdict: str = ""

    @classmethod
    def of(cls, title: str, x: str, y: str, curves: Iterable[Curve], **options: Any) -> Plot:
        """Make a plot from any sequence of curves."""
        options = {
            name: tuple(map(tuple, v)) if name in ("marks", "bands") else v for name, v in options.items()
        }
        return cls(title, x, y, tuple(curves), **options)


@dataclass
class Section:
    """A part of the report: its text says what is shown and what to think of it."""

    name: str
    title: str
    text: str = ""
    values: list[Value] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)


@dataclass
class Figures:
    """All sections of an experiment's figures, in the order in which they are to be read."""

    sections: list[Section] = field(default_factory=list)

    def section(self, name: str, title: str, text: str = "") -> Section:
        """Add a section and return it."""
        self.sections.append(Section(name, title, text))
        return self.sections[-1]

    def document(self) -> list[dict[str, Any]]:
        """Return a JSON-ready form: NaN and infinity become null, a value carries its verdict."""
        return [_document(section) for section in self.sections]


def _document(section: Section) -> dict[str, Any]:
    plain: dict[str, Any] = _plain(asdict(section))
    for row, value in zip(plain["values"], section.values, strict=True):
        row["verdict"] = value.verdict
    return plain


def _plain(thing: Any) -> Any:
    if isinstance(thing, dict):
        return {str(key): _plain(value) for key, value in thing.items()}
    if isinstance(thing, list | tuple):
        return [_plain(value) for value in thing]
    if isinstance(thing, np.generic):
        thing = thing.item()
    return None if isinstance(thing, float) and not math.isfinite(thing) else thing


def _floats(values: Numbers) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
