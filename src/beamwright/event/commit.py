"""Committing: batches in order to their files, deposits to their sums, and every record to its place in the
ledger.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from beamwright.core.balance import imbalance, taken
from beamwright.core.errors import LedgerError, ModuleError
from beamwright.core.histogram import HistogramSet
from beamwright.core.messages import LedgerDoc, QuarantineDoc
from beamwright.core.runs import Interval
from beamwright.event.batch import HISTOGRAM_PREFIX, Batch
from beamwright.event.engine import READER, Engine, Failure, Result
from beamwright.event.keys import are_among, distinct
from beamwright.event.store import Written
from beamwright.event.table import Array
from beamwright.event.tally import Tally

NOT_GENERATED = "NotGenerated: the generator did not make this record"
Merge = Callable[[str, dict[str, Array]], None]
"""Takes what a batch deposits for a calibration."""


class Sink(Protocol):
    """Where the records of a stream go, in key order."""

    def write(self, batch: Batch, /) -> None: ...

    def close(self, quarantined: Sequence[str] = ...) -> Written: ...

    def abort(self) -> None: ...


@dataclass
class LoopResult:
    """What a pass left behind; ``ledger`` has one line per kind of record and stream."""

    ledger: list[LedgerDoc] = field(default_factory=list)
    written: dict[str, Written] = field(default_factory=dict)
    quarantined: list[QuarantineDoc] = field(default_factory=list)
    histograms: HistogramSet = field(default_factory=HistogramSet)
    statistics: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Poison:
    """A record that cannot be processed."""

    key: str
    record: str
    module: str
    failure: Failure
    position: int = -1
    """Which of the kept records it is; -1 for one that was created."""
    parent: str = ""

    def document(self) -> QuarantineDoc:
        found: QuarantineDoc = {
            "key": self.key, "record": self.record, "module": self.module, "error": self.failure.error,
            "traceback": self.failure.traceback,
        }  # fmt: skip
        return found | {"parent": self.parent} if self.parent else found


@dataclass
class _Counts:
    """What became of the records of one kind in one stream."""

    read: int = 0
    created: int = 0
    written: int = 0
    filtered: int = 0
    prescaled: int = 0
    quarantined: int = 0

    def line(self, record: str, stream: str, interval: Interval) -> LedgerDoc:
        """Return the line of the ledger."""
        return {"record": record, "stream": stream, "interval": interval.document(), **asdict(self)}  # type: ignore[typeddict-item]


class Commit:
    """Takes batches in order: writes them, adds their deposits, counts."""

    def __init__(
        self, engine: Engine, sinks: dict[str, Sink], merge: Merge | None = None, account: str = "",
        profile: bool = False,
    ) -> None:  # fmt: skip
        self._engine, self._sinks, self._merge, self._account = engine, sinks, merge, account
        self._plan, self._path = engine.plan, engine.path
        self._read = {stream: _Counts() for stream in sinks}
        self._made = {stream: _Counts() for stream in sinks if self._is_created(stream)}
        self._poison: list[Poison] = []
        self._failed = 0
        self._last: dict[str, tuple[int, int, int]] = {}
        self._written: dict[str, Written] = {}
        self._used = _Counts()
        self._missing = 0
        self.tally = Tally([step.name for step in engine.path.steps], profile)

    def _is_created(self, stream: str) -> bool:
        return self._path.record_of(self._path.output(stream)) != self._path.record

    def batch(self, number: int, pieces: list[Result | Poison]) -> None:
        """Commit one batch."""
        results = [piece for piece in pieces if isinstance(piece, Result)]
        poison = [piece for piece in pieces if isinstance(piece, Poison)]
        self._poison += poison
        self._used.written += sum(result.loaded for result in results)
        for result in results:
            self._add(result)
        lost = [one.position for one in poison if one.position >= 0]
        self._used.quarantined += len(lost)
        for stream in self._sinks:
            batches = [result.outputs[stream] for result in results if stream in result.outputs]
            for part in batches:
                self._write(stream, part)
            filtered = sum(result.filtered.get(stream, 0) for result in results)
            self._read[stream].quarantined += len(lost)
            if stream in self._made:
                self._count_parents(stream, self._processed(number, lost), batches)
                made = self._made[stream]
                made.created += sum(len(result.created_event) for result in results)
                made.filtered += filtered
                made.quarantined += len(poison) - len(lost)
            else:
                self._read[stream].filtered += filtered

    def _processed(self, number: int, lost: list[int]) -> NDArray[np.int64]:
        """Return the positions in the index of the records of a batch that were processed."""
        span = self._plan.spans[number]
        alive = np.ones(span.stop - span.start, np.bool_)
        alive[np.asarray(lost, np.int64) - span.start] = False
        return self._plan.positions(span.start, span.stop)[alive]

    def _count_parents(self, stream: str, positions: NDArray[np.int64], batches: list[Batch]) -> None:
        """Count the records that became parents of written ones, and those that did not."""
        sections = [batch.parent_section for batch in batches if batch.parent_section is not None]
        events = [batch.parent_event for batch in batches if batch.parent_event is not None]
        section = np.concatenate([*sections, np.zeros(0, np.uint32)])
        event = np.concatenate([*events, np.zeros(0, np.uint64)])
        is_parent = are_among(*self._plan.index.keys_at(positions), section, event)
        self._read[stream].written += distinct(section, event)
        self._read[stream].filtered += int((~is_parent).sum())

    def _add(self, result: Result) -> None:
        self.tally.add(result.calls)
        for name, arrays in result.deposits.items():
            if name.startswith(HISTOGRAM_PREFIX):
                self._engine.histograms[name.removeprefix(HISTOGRAM_PREFIX)].counts += arrays["counts"]
            elif self._merge is not None:
                self._merge(name, arrays)

    def _write(self, stream: str, batch: Batch) -> None:
        if not batch.n:
            return
        first = (batch.run, int(batch.section[0]), int(batch.event[0]))
        if first <= self._last.get(stream, (-1, 0, 0)):
            raise ModuleError(
                f"stream {stream} goes back to {first} after {self._last[stream]}",
                hint="a Builder must number records so that keys rise from parent to parent",
            )
        self._last[stream] = (batch.run, int(batch.section[-1]), int(batch.event[-1]))
        self._sinks[stream].write(batch)

    def check_quarantine(self, limit: int, module: str, failure: Failure) -> None:
        """End a pass in which too many records fail."""
        self._failed += 1
        if self._failed > limit:
            raise ModuleError(
                f"module {module} fails on more than {limit} records, the last time with {failure.error}",
                hint="this is no poisoned event; mend the module",
                traceback=failure.traceback,
            )

    def close(self) -> None:
        """Close the files; what was requested and not made is quarantined."""
        failure = Failure(-1, NOT_GENERATED)
        missing = [str(key) for key in self._engine.reader.missing()]
        self._poison += [Poison(key, self._plan.record, READER, failure) for key in missing]
        self._missing = len(missing)
        keys = tuple(one.key for one in self._poison)
        self._written = {stream: sink.close(keys) for stream, sink in self._sinks.items()}

    def abort(self) -> None:
        """Give up what was written."""
        for sink in self._sinks.values():
            sink.abort()

    def result(self, interval: Interval) -> LoopResult:
        """Return what the pass left, its ledger balanced.

        Raises: LedgerError.
        """
        lines = [line for stream in self._sinks for line in self._lines(stream, interval)]
        if self._account:
            lines.append(self._read_line(self._used, self._account, interval))
        for line in lines:
            check_balance(line)
        statistics: dict[str, Any] = {"modules": self.tally.modules(), "records": self._used.written}
        statistics["batches"] = len(self._plan.spans)
        if self.tally.samples:
            statistics["profile"] = self.tally.profile()
        return LoopResult(
            lines, self._written, [one.document() for one in self._poison], self._engine.histograms,
            statistics,
        )  # fmt: skip

    def _lines(self, stream: str, interval: Interval) -> list[LedgerDoc]:
        events = self._written[stream].events
        if stream not in self._made:
            self._read[stream].written = events
            return [self._read_line(self._read[stream], stream, interval)]
        self._made[stream].written = events
        created = self._made[stream].line(self._path.records[-1], stream, interval)
        return [self._read_line(self._read[stream], stream, interval), created]

    def _read_line(self, counts: _Counts, stream: str, interval: Interval) -> LedgerDoc:
        counts.prescaled = self._plan.prescaled
        if self._engine.reader.is_request:
            counts.created, counts.quarantined = self._used.written, self._used.quarantined + self._missing
            line = counts.line(self._plan.record, stream, interval)
            return line | {"requested": self._plan.read + self._missing}
        counts.read = self._plan.read
        return counts.line(self._plan.record, stream, interval)


def check_balance(line: LedgerDoc) -> None:
    """Check that every record of a line is accounted for.

    Raises: LedgerError.
    """
    if imbalance(line):
        came = taken(line) + (line["created"] if "requested" not in line else 0)
        went = line["written"] + line["filtered"] + line["prescaled"] + line["quarantined"]
        raise LedgerError(
            f"{line['record']} records in stream {line['stream']}: {came} came and {went} are accounted for",
            hint="a fault of the event loop or of a writer: report it with this job",
            line=dict(line),
        )
