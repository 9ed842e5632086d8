"""The event loop: batches in order, in this process or in many, with every record accounted for.

The output does not depend on how many processes work, nor on how large the batches are: results are
committed in
the order of the batches, clusters are cut from the sequence of the records, and a batch that failed leaves no
trace but what it leaves when it is run again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path as FilePath
from typing import Any

from beamwright.conditions.snapshot import Snapshot
from beamwright.core.errors import ConfigError, SchemaMismatchError, UnknownNameError, UsageError
from beamwright.core.lineage import Lineage
from beamwright.core.runs import Interval
from beamwright.event.banks import BankSet
from beamwright.event.collection import CollectionReader
from beamwright.event.commit import Commit, LoopResult, Merge, Sink
from beamwright.event.conductor import Conductor, Limits, Pool
from beamwright.event.engine import Engine
from beamwright.event.module import RunInfo
from beamwright.event.path import Output, Path
from beamwright.event.plan import BATCH_BYTES, BATCH_EVENTS, ConditionsSource, make_plan, pieces_of
from beamwright.event.pointer import PointerWriter
from beamwright.event.reader import Reader
from beamwright.event.serial import SerialPool
from beamwright.event.store import StreamWriter

__all__ = ["Limits", "LoopResult", "run_path"]

NO_LIMITS = Limits()


def run_path(
    path: Path,
    reader: Reader,
    interval: Interval,
    *,
    banks: BankSet,
    snapshot: Snapshot | None = None,
    outputs: Mapping[str, FilePath] | None = None,
    lineage: Callable[[str], Lineage] | None = None,
    workers: int = 1,
    isolated: bool = False,
    batch_events: int = BATCH_EVENTS,
    batch_bytes: int = BATCH_BYTES,
    prescale: int = 1,
    seed: int = 0,
    limits: Limits = NO_LIMITS,
    run_info: Callable[[int], RunInfo] | None = None,
    progress: Callable[[int, int], None] | None = None,
    sinks: Callable[[Output], Sink] | None = None,
    merge: Merge | None = None,
    account: str = "",
) -> LoopResult:
    """Run a path over the records of an interval, and write the streams named in ``outputs``.

    One worker works in this process, unless ``isolated``; only in a process of its own does a module that
    crashes lose nothing but its
    record. ``sinks`` takes the place of files. ``progress`` is called with records done and records in all;
    ``merge`` takes what batches deposit, in their order, and ``account`` names its line in the ledger.
    Raises: ModuleError, UnknownNameError, ConditionsError, FormatError, LedgerError.
    """
    wanted = _wanted(path, outputs, sinks is not None)
    engine = _engine(path, reader, interval, banks, snapshot, wanted, prescale, batch_events, batch_bytes)
    engine.seed, engine.run_info = seed, run_info
    engine.book()
    pool = _pool(engine, workers, isolated, limits)
    try:
        make = sinks or _files(outputs or {}, lineage, banks, engine)
        commit = Commit(engine, _open_sinks(wanted, make), merge, account)
        Conductor(pool, engine.plan, path, commit, limits, progress).run()
        pool.finish()
        return commit.result(interval)
    finally:
        pool.close()


def _wanted(path: Path, outputs: Mapping[str, FilePath] | None, everything: bool) -> tuple[Output, ...]:
    if everything:
        return tuple(path.outputs)
    for stream in outputs or {}:
        path.output(stream)
    return tuple(output for output in path.outputs if output.stream in (outputs or {}))


def _engine(
    path: Path, reader: Reader, interval: Interval, banks: BankSet, snapshot: Snapshot | None,
    wanted: tuple[Output, ...], prescale: int, batch_events: int, batch_bytes: int,
) -> Engine:  # fmt: skip
    """Check everything that can be checked before the first event."""
    if path.record not in reader.records():
        raise UnknownNameError(f"kind of record (read by path {path.name})", path.record, reader.records())
    _check_declared(reader, banks, path.record)
    roles = None if snapshot is None else snapshot.roles
    read_banks = path.check(banks, reader.banks(path.record), roles)
    pieces = pieces_of(snapshot, path.conditions, interval)
    plan = make_plan(
        reader.index(path.record), reader.series, path.record, interval, pieces,
        prescale=prescale, batch_events=batch_events, batch_bytes=batch_bytes,
    )  # fmt: skip
    return Engine(path, reader, plan, banks, read_banks, ConditionsSource(snapshot), wanted)


def _check_declared(reader: Reader, banks: BankSet, record: str) -> None:
    """Refuse files whose banks were declared otherwise than the path's."""
    declarations = getattr(reader, "declarations", None) or {}
    for name in reader.banks(record):
        if name in declarations and name in banks and declarations[name].columns != banks[name].columns:
            raise SchemaMismatchError(
                f"bank {name} has other columns in the files (version {declarations[name].version})",
                hint="their columns differ: read the files with the release that wrote them",
            )


def _files(
    outputs: Mapping[str, FilePath], lineage: Callable[[str], Lineage] | None, banks: BankSet, engine: Engine
) -> Callable[[Output], Sink]:
    """Return what makes a file for an output; records that were created, here or before, have parents."""

    def make(output: Output) -> Sink:
        if lineage is None:
            raise UsageError(
                f"stream {output.stream} has no lineage", hint="give run_path a lineage for its files"
            )
        record = engine.path.record_of(output)
        built = record != engine.path.record or bool(getattr(engine.reader, "built", False))
        path, chosen = outputs[output.stream], banks.subset(output.banks)
        if output.pointer:
            return _pointers(path, output, chosen, lineage(output.stream), engine)
        kind: dict[str, Any] = {"record": record, "built": built, "split": output.split}
        return StreamWriter(path, output.stream, chosen, lineage(output.stream), **kind)

    return make


def _pointers(path: FilePath, output: Output, banks: BankSet, lineage: Lineage, engine: Engine) -> Sink:
    """Return the file of a pointer skim, which leads into the files that are read."""
    reader, record = engine.reader, engine.path.record_of(output)
    if not isinstance(reader, CollectionReader) or record != reader.record:
        raise ConfigError(
            f"pointer skim {output.stream}: its {record} records are not read from an event stream",
            hint="pointers lead into files that beamwright wrote; make a deep copy here",
        )
    carried = engine.path.carried(output)
    borrow = [name for name in banks if name not in carried]
    return PointerWriter(
        path, output.stream, banks, lineage, parents=reader, borrow=borrow, split=output.split
    )


def _open_sinks(wanted: tuple[Output, ...], make: Callable[[Output], Sink]) -> dict[str, Sink]:
    found: dict[str, Sink] = {}
    try:
        for output in wanted:
            found[output.stream] = make(output)
    except BaseException:
        for sink in found.values():
            sink.abort()
        raise
    return found


def _pool(engine: Engine, workers: int, isolated: bool, limits: Limits) -> Pool:
    if workers > 1 or isolated:
        from beamwright.event.workers import WorkerPool

        return WorkerPool(engine, workers, limits.event_s)
    return SerialPool(engine, limits.event_s)
