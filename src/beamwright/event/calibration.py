"""Calibrations: accumulators that are filled in parallel and merged exactly, and the fits that make
constants of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from beamwright.conditions.payload import Payload
from beamwright.conditions.snapshot import Snapshot
from beamwright.core import bundle
from beamwright.core.errors import FormatError, SchemaMismatchError
from beamwright.core.histogram import HistogramSet
from beamwright.core.messages import ACCUMULATOR, LedgerDoc, QuarantineDoc
from beamwright.core.runs import Interval
from beamwright.event.banks import BankSet
from beamwright.event.batch import Batch
from beamwright.event.loop import NO_LIMITS, Limits, run_path
from beamwright.event.module import (
    Conditions,
    Configurable,
    Constants,
    Module,
    RunInfo,
    conditions_among,
)
from beamwright.event.path import Path
from beamwright.event.plan import BATCH_BYTES
from beamwright.event.reader import Reader
from beamwright.event.table import Array

Accumulator = dict[str, Array]
Verdict = Literal["accept", "reject", "carry"]
PREFIX = "calibration/"
CHANNEL = "channel"


@dataclass(frozen=True)
class Fit:
    """What a fit proposes: a payload for each tag, and figures to judge it by."""

    payloads: Mapping[str, Payload]
    figures: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Decision:
    """Whether a fit's constants are taken: ``carry`` keeps the previous ones, which is no fault."""

    verdict: Verdict
    reason: str = ""


class Calibration(Configurable, ABC):
    """Makes the constants of ``tags`` out of the records of one kind.

    ``reads`` names banks, and conditions as ``"Tag@conditions"``. Accumulators must merge exactly, in batch
    order: integer counts, or arrays that are joined end to end; then no number of workers changes a bit.
    ``max_bad`` is how many channels of a tag may come out without a finite value, or be lost, before the fit
    is rejected.
    """

    tags: Sequence[str] = ()
    record: str = "event"
    reads: Sequence[str] = ()
    minimum: float = 1.0
    max_bad: int = 0

    @property
    def name(self) -> str:
        return type(self).__name__

    @property
    def conditions(self) -> tuple[str, ...]:
        """The conditions that the collector reads."""
        return conditions_among(self.reads)

    @abstractmethod
    def empty(self) -> Accumulator:
        """Return an accumulator that holds nothing."""

    @abstractmethod
    def collect(self, batch: Batch, conditions: Conditions) -> Accumulator:
        """Return what one batch adds."""

    def merge(self, first: Accumulator, second: Accumulator) -> Accumulator:
        """Return both together; ``second`` comes from later records. By default arrays are added."""
        if first.keys() != second.keys():
            raise SchemaMismatchError(
                f"accumulators of {self.name} hold {sorted(first)} and {sorted(second)}",
                hint="collect() and empty() return the same arrays",
            )
        return {name: first[name] + second[name] for name in first}

    @abstractmethod
    def statistics(self, accumulator: Accumulator) -> float:
        """Return how much was accumulated, to be compared with ``minimum``; it adds up over accumulators."""

    @abstractmethod
    def fit(self, accumulator: Accumulator, previous: Conditions) -> Fit:
        """Return constants fitted from an accumulator, starting from the previous ones."""

    def validate(self, fit: Fit, previous: Conditions) -> Decision:
        """Judge a fit against the previous constants."""
        return Decision("accept")


class Collector(Module):
    """Runs the collector of a calibration as a module."""

    def __init__(self, calibration: Calibration) -> None:
        super().__init__()
        self.calibration = calibration
        self.reads = tuple(calibration.reads)
        self._conditions: Conditions = {}

    @property
    def name(self) -> str:
        return self.calibration.name

    def conditions_changed(self, interval: Interval, conditions: Conditions) -> None:
        self._conditions = conditions

    def process(self, batch: Batch) -> None:
        arrays = self.calibration.collect(batch, self._conditions)
        batch.deposit(PREFIX + self.name, {name: np.asarray(array) for name, array in arrays.items()})


@dataclass
class Collected:
    """What collectors left: accumulators by calibration, their statistics, and the accounts of the passes."""

    accumulators: dict[str, Accumulator] = field(default_factory=dict)
    statistics: dict[str, float] = field(default_factory=dict)
    ledger: list[LedgerDoc] = field(default_factory=list)
    quarantined: list[QuarantineDoc] = field(default_factory=list)
    histograms: HistogramSet = field(default_factory=HistogramSet)


def collect_path(
    calibrations: Sequence[Calibration],
    reader: Reader,
    interval: Interval,
    *,
    banks: BankSet,
    snapshot: Snapshot | None = None,
    workers: int = 1,
    isolated: bool | None = None,
    batch_events: int | None = None,
    batch_bytes: int = BATCH_BYTES,
    prescale: Mapping[str, int] | None = None,
    seed: int = 0,
    limits: Limits = NO_LIMITS,
    run_info: Callable[[int], RunInfo] | None = None,
    progress: Callable[[int, int | None], None] | None = None,
    partial: Callable[[HistogramSet], None] | None = None,
) -> Collected:
    """Fill the accumulators of calibrations from the records of an interval, one pass per kind of record."""
    found = Collected({c.name: c.empty() for c in calibrations})
    by_name = {PREFIX + c.name: c for c in calibrations}

    def merge(name: str, arrays: Accumulator) -> None:
        calibration = by_name[name]
        found.accumulators[calibration.name] = calibration.merge(found.accumulators[calibration.name], arrays)

    def show(filled: HistogramSet) -> None:
        if partial is not None:
            partial(HistogramSet.merged([found.histograms, filled]))

    shown = show if partial is not None else None
    for record in sorted({c.record for c in calibrations} & set(reader.records())):
        path = Path(f"collect-{record}", record, [Collector(c) for c in calibrations if c.record == record])
        passed = run_path(
            path, reader, interval, banks=banks, snapshot=snapshot, workers=workers, isolated=isolated,
            batch_events=batch_events, batch_bytes=batch_bytes, prescale=(prescale or {}).get(record, 1),
            seed=seed, limits=limits, run_info=run_info, progress=progress, merge=merge, account=ACCUMULATOR,
            partial=shown,
        )  # fmt: skip
        found.ledger += passed.ledger
        found.quarantined += passed.quarantined
        found.histograms.add(passed.histograms)
    found.statistics = statistics(calibrations, found.accumulators)
    return found


def statistics(
    calibrations: Iterable[Calibration], accumulators: Mapping[str, Accumulator]
) -> dict[str, float]:
    """Return the statistics of each calibration."""
    return {c.name: float(c.statistics(accumulators[c.name])) for c in calibrations}


def pack_accumulators(accumulators: Mapping[str, Accumulator], statistics: Mapping[str, float]) -> bytes:
    """Return accumulators as a bundle whose arrays are called ``calibration/array``."""
    arrays = {f"{name}/{key}": array for name, held in accumulators.items() for key, array in held.items()}
    return bundle.pack(arrays, {"accumulators": sorted(accumulators), "statistics": dict(statistics)})


def unpack_accumulators(data: bytes, name: str = ACCUMULATOR) -> dict[str, Accumulator]:
    """Read what ``pack_accumulators`` wrote."""
    arrays, document = bundle.unpack(data, name)
    if not isinstance(document, dict) or "accumulators" not in document:
        raise FormatError(f"{name} holds no accumulators", hint="only what a collect job wrote can be fitted")
    found: dict[str, Accumulator] = {calibration: {} for calibration in document["accumulators"]}
    for key, array in arrays.items():
        calibration, _, column = key.partition("/")
        found[calibration][column] = array
    return found


def merge_accumulators(
    calibrations: Sequence[Calibration], parts: Iterable[Mapping[str, Accumulator]]
) -> dict[str, Accumulator]:
    """Return the accumulators of several collect jobs, in their order, as one."""
    whole = {c.name: c.empty() for c in calibrations}
    for part in parts:
        for c in calibrations:
            if c.name in part:
                whole[c.name] = c.merge(whole[c.name], dict(part[c.name]))
    return whole


@dataclass(frozen=True)
class Fitted:
    """A calibration's outcome: the payloads that it proposes, or the previous ones, and why.

    A rejected fit's payloads are kept, so that a person can still accept them.
    """

    tags: tuple[str, ...]
    payloads: dict[str, Payload]
    decision: Decision
    statistics: float
    minimum: float
    figures: dict[str, Any]

    def document(self) -> dict[str, Any]:
        """Return a JSON-ready form; payloads by id."""
        return {
            "tags": list(self.tags), "decision": self.decision.verdict, "reason": self.decision.reason,
            "statistics": self.statistics, "minimum": self.minimum, "figures": plain(self.figures),
            "payloads": {tag: payload.id for tag, payload in sorted(self.payloads.items())},
        }  # fmt: skip


def fit_calibration(calibration: Calibration, accumulator: Accumulator, previous: Conditions) -> Fitted:
    """Fit and judge one calibration; where there is no fit, or it is carried, the previous payloads stay."""
    amount = float(calibration.statistics(accumulator))
    kept = {
        tag: Payload.arrays(c.arrays, c.document) for tag, c in previous.items() if tag in calibration.tags
    }
    figures: dict[str, Any] = {}
    fit = None
    if amount < calibration.minimum:
        decision = Decision("carry", f"too little statistics: {amount:g} of {calibration.minimum:g}")
    else:
        fit, decision = _tried(calibration, accumulator, previous)
        figures = dict(fit.figures) if fit else {}
    payloads = dict(fit.payloads) if fit and decision.verdict != "carry" else kept
    return Fitted(tuple(calibration.tags), payloads, decision, amount, float(calibration.minimum), figures)


def _tried(
    calibration: Calibration, accumulator: Accumulator, previous: Conditions
) -> tuple[Fit | None, Decision]:
    """Fit; numbers that lead to no fit reject it, they do not end the job."""
    try:
        fit = calibration.fit(accumulator, previous)
    except (ArithmeticError, np.linalg.LinAlgError) as error:
        return None, Decision("reject", f"the fit failed: {type(error).__name__}: {error}")
    strange = sorted(set(fit.payloads) ^ set(calibration.tags))
    if strange:
        raise SchemaMismatchError(
            f"the fit of {calibration.name} gives payloads for {sorted(fit.payloads)}",
            hint=f"it declares {sorted(calibration.tags)}",
        )
    bad = {tag: bad_channels(payload, previous.get(tag)) for tag, payload in sorted(fit.payloads.items())}
    worse = {tag: found for tag, found in bad.items() if len(found) > calibration.max_bad}
    if worse:
        told = (f"{len(found)} bad entries in {tag}: {found[0]}" for tag, found in worse.items())
        return fit, Decision("reject", "; ".join(told))
    return fit, calibration.validate(fit, previous)


def bad_channels(payload: Payload, previous: Constants | None) -> list[str]:
    """Say which entries of a payload's arrays are not finite, and which of the previous ones are missing.

    Arrays called ``channel`` name the entries; without one, arrays that have become shorter have lost some.
    """
    if payload.kind != "arrays":
        return []
    arrays = payload.unpack()[0]
    names = arrays.get(CHANNEL)
    strange = [
        f"{name} of channel {i if names is None or len(names) <= i else names[i]} is not finite"
        for name, array in arrays.items()
        if array.dtype.kind == "f" and array.ndim
        for i in np.flatnonzero(~np.isfinite(array).reshape(len(array), -1).all(axis=1))
    ]
    if previous is None or previous.arrays.keys() != arrays.keys():
        return strange
    if names is not None:
        gone = np.setdiff1d(previous.arrays[CHANNEL], names)
        return strange + [f"channel {channel} is missing" for channel in gone]
    return strange + [
        f"{name} has {array.size} entries, there were {previous.arrays[name].size}"
        for name, array in arrays.items()
        if array.size < previous.arrays[name].size
    ]


def previous_constants(
    snapshot: Snapshot | None, tags: Iterable[str], interval: Interval
) -> dict[str, Constants]:
    """Return the constants that hold at the start of an interval."""
    if snapshot is None:
        return {}
    found = {}
    for tag in sorted(set(tags) & set(snapshot.roles)):
        payload_id = snapshot.resolve(tag, (interval.series, interval.first))[1]
        arrays, document = snapshot.constants(payload_id)
        found[tag] = Constants(arrays, document, payload_id)
    return found


def plain(value: Any) -> Any:
    """Return figures as JSON holds them: NumPy scalars as numbers, what is not finite as null."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value
