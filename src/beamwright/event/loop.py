"""The event loop: batches in order, in this process or in many, with every record accounted for.

The output does not depend on how many processes work, nor on how large the batches are: results are
committed in
the order of the batches, clusters are cut from the sequence of the records, and a batch that failed leaves no
trace but what it leaves when it is run again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path as FilePath
from typing import Any

from beamwright.conditions.snapshot import Snapshot
from beamwright.core.errors import ConfigError, SchemaMismatchError, UnknownNameError, UsageError
from beamwright.core.histogram import HistogramSet
from beamwright.core.lineage import Lineage
from beamwright.core.runs import Interval
from beamwright.event.banks import BankSet
from beamwright.event.collection import CollectionReader
from beamwright.event.commit import Commit, LoopResult, Merge, Sink
from beamwright.event.conductor import Conductor, Limits, Pool
from beamwright.event.engine import Engine
from beamwright.event.evolution import differences
from beamwright.event.module import RunInfo
from beamwright.event.path import Output, Path
from beamwright.event.plan import BATCH_BYTES, Again, ConditionsSource, make_plan, pieces_of
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
    isolated: bool | None = None,
    batch_events: int | None = None,
    batch_bytes: int = BATCH_BYTES,
    prescale: int = 1,
    seed: int = 0,
    limits: Limits = NO_LIMITS,
    run_info: Callable[[int], RunInfo] | None = None,
    progress: Callable[[int, int | None], None] | None = None,
    sinks: Callable[[Output], Sink] | None = None,
    merge: Merge | None = None,
    account: str = "",
    only: Again | None = None,
    profile: bool = False,
    partial: Callable[[HistogramSet], None] | None = None,
) -> LoopResult:
    """Run a path over the records of an interval, and write the streams named in ``outputs``.

    One worker works in this process, unless ``isolated`` or, where that is None, unless there are limits;
    only in a process of its own does a module that crashes lose nothing but its record. ``only`` names
    records that are worked on again, and no others are. ``sinks`` takes the place of files. ``progress`` is
    called with records done and records in all; ``merge`` takes what batches deposit, in their order, and
    ``account`` names its line in the ledger. ``profile`` adds the times of single calls to the statistics.
    ``partial`` is shown the histograms after each batch.
    Raises: ModuleError, UnknownNameError, ConditionsError, FormatError, LedgerError.
    """
    wanted = wanted_outputs(path, outputs, sinks is not None)
    read_banks = check_path(path, reader, banks, snapshot)
    if isinstance(reader, CollectionReader):
        reader.expect(read_banks)
    plan = make_plan(
        reader.index(path.record), reader.series, path.record, interval,
        pieces_of(snapshot, path.conditions, interval),
        prescale=prescale, batch_events=batch_events, batch_bytes=batch_bytes,
        only=None if only is None else only.keys,
    )  # fmt: skip
    engine = Engine(
        path, reader, plan, banks, read_banks, ConditionsSource(snapshot), wanted, seed, run_info, only
    )
    make = sinks or file_sinks(outputs or {}, lineage, banks, engine)
    with opened_pass(engine, workers, isolated, limits, make, merge, account, profile) as (pool, commit):
        conductor = Conductor(pool, plan, path, commit, limits, _telling(progress, partial, engine))
        conductor.run()
        commit.close()
        finish(pool, commit)
        return commit.result(interval)


def _telling(
    progress: Callable[[int, int | None], None] | None,
    partial: Callable[[HistogramSet], None] | None,
    engine: Engine,
) -> Callable[[int, int | None], None] | None:
    """Return what is called after each batch."""
    if partial is None:
        return progress

    def tell(done: int, total: int | None) -> None:
        if progress is not None:
            progress(done, total)
        partial(engine.histograms)

    return tell


@contextmanager
def opened_pass(
    engine: Engine, workers: int, isolated: bool | None, limits: Limits, make: Callable[[Output], Sink],
    merge: Merge | None = None, account: str = "", profile: bool = False,
) -> Iterator[tuple[Pool, Commit]]:  # fmt: skip
    """Prepare the modules, start the workers and open the outputs; what fails within gives all of it up."""
    calls = engine.book()
    pool = _pool(engine, workers, limits.is_any if isolated is None else isolated, limits)
    try:
        commit = Commit(engine, _open_sinks(engine.streams, make), merge, account, profile)
        commit.tally.add(calls)
        try:
            yield pool, commit
        except BaseException:
            commit.abort()
            raise
    finally:
        pool.close()


def finish(pool: Pool, commit: Commit) -> None:
    """End the runs that are open in the workers."""
    for result in pool.finish():
        commit.tally.add(result.calls)


def wanted_outputs(
    path: Path, outputs: Mapping[str, FilePath] | None, everything: bool
) -> tuple[Output, ...]:
    """Return the outputs of a path that have a file, or all of them. Raises: UnknownNameError."""
    if everything:
        return tuple(path.outputs)
    for stream in outputs or {}:
        path.output(stream)
    return tuple(output for output in path.outputs if output.stream in (outputs or {}))


def check_path(path: Path, reader: Reader, banks: BankSet, snapshot: Snapshot | None) -> tuple[str, ...]:
    """Check everything that can be checked before the first event, and return the banks to be read."""
    if path.record not in reader.records():
        raise UnknownNameError(f"kind of record (read by path {path.name})", path.record, reader.records())
    _check_declared(reader, banks, path.record)
    roles = None if snapshot is None else snapshot.roles
    return path.check(banks, reader.banks(path.record), roles)


def _check_declared(reader: Reader, banks: BankSet, record: str) -> None:
    """Refuse files whose banks were declared otherwise than the path's."""
    declarations = getattr(reader, "declarations", None) or {}
    for name in reader.banks(record):
        if name in declarations and name in banks and declarations[name].columns != banks[name].columns:
            stored = BankSet([declarations[name]], closed=False)
            found = differences(stored, BankSet([banks[name]], closed=False))
            told = [f"column {d.column}: {d.change}, {d.before} to {d.after}" for d in found if d.column]
            raise SchemaMismatchError(
                f"bank {name} has other columns in the files (version {declarations[name].version}) than are "
                f"declared (version {banks[name].version}): {'; '.join(told) or 'their order'}",
                hint="open the files with the declared banks, which maps what may change, or read them with "
                "the release that wrote them",
            )


def file_sinks(
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

        return WorkerPool(engine, workers, limits.event_s, limits.memory_mb, limits.hook_s)
    return SerialPool(engine, limits.event_s)
