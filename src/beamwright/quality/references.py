"""Quality references: what histograms and figures of a run should look like, in TOML, apart from code.

version = 3

[[histogram]]
name = "tot"            # as the step books it
subject = "pmt"         # the part of the detector that the verdict is on
entries = 1000          # with fewer the verdict is unknown
mean = [24.0, 28.0]
width = [2.0, 6.0]
outside = 0.05          # at most this fraction in under- and overflow
dead = 0.02             # at most this fraction of bins below dead_below times the median
hot = 0.02              # at most this fraction of bins above hot_above times the median
p_value = 1e-4          # at least this probability that it has the shape of the reference
kolmogorov = 1e-4       # the same by Kolmogorov and Smirnov
anderson = 0.01         # the same by Anderson and Darling, which looks at the tails; at least 0.001
reference = [12, 80, 410, 90]

[[figure]]
name = "width_ns"
subject = "timing"
range = [2.0, 4.0]

[[trend]]
name = "width_ns"       # a histogram or figure that is checked above
subject = "timing"
quantity = "value"      # as its check calls it: value, mean, width, fraction dead …
runs = 30               # so many runs before are looked at
p_value = 1e-4          # less says that the mean has changed
settle = 3              # a change counts in so many runs, then it is what is normal
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pydantic import Field, model_validator

from beamwright.core.canonical import content_hash
from beamwright.core.errors import ConfigError, nearest
from beamwright.core.settings import Declaration, declare, decoded, parse_toml

Range = tuple[float, float]
QUANTITIES = {
    "mean": "mean", "width": "width", "outside": "fraction outside", "dead": "fraction dead",
    "hot": "fraction hot", "p_value": "p-value", "kolmogorov": "kolmogorov", "anderson": "anderson",
}  # fmt: skip
"""What the checks of a histogram call what its limits ask for."""


class _Limits(Declaration):
    """What both kinds of reference share; ``step`` limits it to what that step gives."""

    name: str
    subject: str = Field(min_length=1)
    step: str = ""


class HistogramLimits(_Limits):
    """What a histogram of one run should look like; what is not given is not checked."""

    entries: int = Field(default=1, ge=1)
    mean: Range | None = None
    width: Range | None = None
    outside: float | None = Field(default=None, ge=0, le=1)
    dead: float | None = Field(default=None, ge=0, le=1)
    dead_below: float = Field(default=0.2, gt=0, lt=1)
    hot: float | None = Field(default=None, ge=0, le=1)
    hot_above: float = Field(default=3.0, gt=1)
    p_value: float | None = Field(default=None, gt=0, lt=1)
    kolmogorov: float | None = Field(default=None, gt=0, lt=1)
    anderson: float | None = Field(default=None, gt=0.001, lt=0.25)
    reference: tuple[int, ...] = ()

    @model_validator(mode="after")
    def _is_whole(self) -> HistogramLimits:
        is_compared = any(p is not None for p in (self.p_value, self.kolmogorov, self.anderson))
        if is_compared != bool(self.reference):
            raise ValueError("a reference and p_value, kolmogorov or anderson belong together")
        if any(count < 0 for count in self.reference):
            raise ValueError("a reference holds counts, and one is negative")
        for low, high in (r for r in (self.mean, self.width) if r is not None):
            if not low <= high:
                raise ValueError(f"the range {low}..{high} runs backwards")
        return self

    def quantities(self) -> set[str]:
        """Return what is checked, as the checks call it."""
        found = {name for name in QUANTITIES if getattr(self, name) is not None}
        return {QUANTITIES[name] for name in found} or {"entries"}


class FigureLimits(_Limits):
    """Between what a figure should lie, ends included."""

    range: Range

    @model_validator(mode="after")
    def _is_forward(self) -> FigureLimits:
        if not self.range[0] <= self.range[1]:
            raise ValueError(f"the range {self.range[0]}..{self.range[1]} runs backwards")
        return self

    def quantities(self) -> set[str]:
        """Return what is checked, as the check calls it."""
        return {"value"}


class TrendLimits(Declaration):
    """How improbable a change of a checked quantity against earlier runs may be."""

    name: str
    subject: str = Field(min_length=1)
    quantity: str = "value"
    runs: int = Field(default=30, ge=3)
    least: int = Field(default=5, ge=3)
    settle: int = Field(default=3, ge=1)
    p_value: float = Field(gt=0, lt=1)

    @property
    def key(self) -> tuple[str, str]:
        return self.name, self.quantity


class References(Declaration):
    """A file of references; ``version`` is raised by hand with every change that matters."""

    version: int = Field(ge=1)
    histogram: tuple[HistogramLimits, ...] = ()
    figure: tuple[FigureLimits, ...] = ()
    trend: tuple[TrendLimits, ...] = ()

    @property
    def hash(self) -> str:
        return content_hash(self.model_dump(mode="json"))

    @property
    def author(self) -> str:
        """Who signs verdicts made with these references."""
        return f"algorithm v{self.version} {self.hash[:12]}"

    def subjects(self) -> tuple[str, ...]:
        """Return the parts of the detector that these references judge."""
        return tuple(sorted({limits.subject for limits in (*self.histogram, *self.figure)}))


def read_references(text: str, source: str) -> References:
    """Read a file of references.

    Raises: ConfigError, which names each wrong key and the nearest valid one.
    """
    return declare(References, parse_toml(text, source), source)


def load_references(paths: Iterable[Path]) -> References:
    """Read several files as one; the highest version stands for all.

    Raises: ConfigError, also when two files judge one quantity of one subject, or a trend follows nothing.
    """
    found = [read_references(decoded(path.read_bytes(), str(path)), str(path)) for path in paths]
    histograms = tuple(limits for part in found for limits in part.histogram)
    figures = tuple(limits for part in found for limits in part.figure)
    trends = tuple(limits for part in found for limits in part.trend)
    version = max((part.version for part in found), default=1)
    return check_whole(References(version=version, histogram=histograms, figure=figures, trend=trends))


def check_whole(references: References) -> References:
    """Return references that judge each quantity once, and follow the trends of such quantities alone.

    Raises: ConfigError with the nearest name.
    """
    seen: set[tuple[str, str, str, str]] = set()
    judged: dict[str, dict[str, set[str]]] = {}
    every: list[HistogramLimits | FigureLimits] = [*references.histogram, *references.figure]
    for limits in every:
        key = (type(limits).__name__, limits.subject, limits.step, limits.name)
        if key in seen:
            message = f"{limits.name} of {limits.subject} has two references"
            raise ConfigError(message, hint="keep one of them")
        seen.add(key)
        judged.setdefault(limits.subject, {}).setdefault(limits.name, set()).update(limits.quantities())
    for trend in references.trend:
        of_subject = judged.get(trend.subject, {})
        for kind, name, known in (
            ("subject", trend.subject, judged),
            ("name", trend.name, of_subject),
            ("quantity", trend.quantity, of_subject.get(trend.name, ())),
        ):
            if name not in known:
                message = f"the trend of {trend.name} of {trend.subject} follows the {kind} {name!r}"
                raise ConfigError(f"{message}, which nothing checks", hint=nearest(name, known))
    return references
