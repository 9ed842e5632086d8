"""The engine: runs one task of a plan through a path, in whatever process it finds itself."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import dropwhile
from time import monotonic_ns, perf_counter_ns
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from beamwright.core.errors import BeamwrightError, FormatError, ModuleError, UnknownNameError
from beamwright.core.histogram import HistogramSet
from beamwright.event.ahead import ReadAhead
from beamwright.event.banks import BankSet
from beamwright.event.batch import Batch, Deposits
from beamwright.event.keys import are_among, is_ascending
from beamwright.event.module import Builder, RunInfo
from beamwright.event.path import Output, Path, Step
from beamwright.event.plan import Again, ConditionsSource, Stage, Task, Workload
from beamwright.event.reader import Reader
from beamwright.event.selection import condition
from beamwright.event.table import Mask, Table
from beamwright.event.tally import (
    BEGIN_RUN,
    COMPILE,
    CONDITIONS_CHANGED,
    END_RUN,
    HOOKS,
    PREPARE,
    PROCESS,
    Call,
    resident_bytes,
)

B = TypeVar("B")

READER = "reader"
OWN_FOLDER = os.path.dirname(__file__) + os.sep
"""Where the code lies that calls modules, which is no news to their authors."""
_MEASURED = 16
"""The memory of a module is measured in one task of so many, the first among them."""


STEP, HOOK, SINCE = range(3)


class Progress(Protocol):
    """Where the engine notes the step it is in (-1: reading), the hook, and since when, in ns, it works on
    records, for those who have to explain its death.
    """

    def __setitem__(self, index: int, value: int, /) -> None: ...

    def __getitem__(self, index: int, /) -> int: ...


class Stumble(Exception):
    """A module raised while it worked on a batch."""

    def __init__(self, step: int, cause: BaseException) -> None:
        super().__init__(step)
        self.step = step
        self.cause = cause


@dataclass
class Failure:
    """How a task failed: in which step (-1: reading), and with what."""

    step: int
    error: str
    traceback: str = ""
    is_late: bool = False
    is_of_hook: bool = False
    """Whether it was in a hook that works on no record, so that no record is to blame."""

    @classmethod
    def of(cls, stumble: Stumble) -> Failure:
        """Describe a module's exception, its traceback without the frames that called the module."""
        cause = stumble.cause
        frames = list(traceback.extract_tb(cause.__traceback__))
        called = list(dropwhile(lambda frame: frame.filename.startswith(OWN_FOLDER), frames)) or frames
        text = "".join(traceback.format_list(called)) + "".join(traceback.format_exception_only(cause))
        said = str(cause)
        return cls(stumble.step, type(cause).__name__ + (f": {said}" if said else ""), text)


@dataclass
class Result:
    """What a task leaves: the records for each stream, counts, deposits, and the calls of hooks."""

    outputs: dict[str, Batch] = field(default_factory=dict)
    filtered: dict[str, int] = field(default_factory=dict)
    loaded: int = 0
    created_section: NDArray[np.uint32] = field(default_factory=lambda: np.zeros(0, np.uint32))
    created_event: NDArray[np.uint64] = field(default_factory=lambda: np.zeros(0, np.uint64))
    deposits: Deposits = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)


@dataclass
class Engine:
    """A path bound to a reader, a plan and conditions. ``streams`` are the outputs that are wanted."""

    path: Path
    reader: Reader
    plan: Workload
    banks: BankSet
    read_banks: tuple[str, ...]
    conditions: ConditionsSource
    streams: tuple[Output, ...] = ()
    seed: int = 0
    run_info: Callable[[int], RunInfo] | None = None
    again: Again | None = None
    histograms: HistogramSet = field(default_factory=HistogramSet)
    progress: Progress = field(default_factory=lambda: [0, PROCESS, 0])
    ahead: ReadAhead | None = None
    _run: RunInfo | None = None
    _payloads: dict[int, dict[str, str]] = field(default_factory=dict)
    _calls: list[Call] = field(default_factory=list)
    _tasks: int = 0

    def book(self) -> list[Call]:
        """Let every module book its histograms and prepare itself, before processes are forked."""
        calls = []
        for step in self.path.steps:
            begun = perf_counter_ns()
            with _Fence(step.name, "book"):
                step.module.book(self.histograms)
            with _Fence(step.name, "prepare"):
                step.module.prepare(self.banks)
            step.module.compile_ns = 0
            calls.append((step.number, PREPARE, 0, perf_counter_ns() - begun, -1))
        return calls

    def run(self, task: Task) -> Result:
        """Run one task.

        Raises: Stumble where a module raises on the records; other errors end the pass.
        """
        self._calls = []
        self._tasks += 1
        self._enter(task)
        batch = self._read(task)
        created = None
        for step in self.path.steps:
            if step.builds:
                created = self._build(step, batch)
                if task.stage is Stage.BUILD:
                    break
                if task.stage is Stage.AFTER:
                    created = created.cut(task.first, task.last)
            else:
                self._call(step, batch if created is None else created)
        return self._result(task, batch, created)

    @property
    def step(self) -> int:
        """The step that the engine is in or was in last, -1: reading."""
        return int(self.progress[STEP])

    @property
    def is_in_hook(self) -> bool:
        """Whether a module is at something else than records."""
        return self.progress[HOOK] != PROCESS

    def finish(self) -> Result:
        """End the run that is open."""
        self._calls = []
        self._end_run()
        return Result(calls=self._calls)

    def _end_run(self) -> None:
        if self._run is not None:
            for step in self.path.steps:
                with self._hook(step, END_RUN):
                    step.module.end_run(self._run)
            self._run = None

    @contextmanager
    def _hook(self, step: Step, hook: int) -> Iterator[None]:
        """Fence a hook that works on no record, and note its time."""
        begun = perf_counter_ns()
        self.progress[STEP], self.progress[HOOK] = step.number, hook
        with _Fence(step.name, HOOKS[hook]):
            yield
        self.progress[HOOK], self.progress[SINCE] = PROCESS, monotonic_ns()
        self._calls.append((step.number, hook, 0, perf_counter_ns() - begun, -1))

    # --- runs and conditions

    def _enter(self, task: Task) -> None:
        run = self.plan.run_of(task)
        if self._run is None or self._run.number != run:
            self._end_run()
            make = self.run_info or (lambda number: RunInfo(self.plan.series, number))
            self._run = make(run)
            for step in self.path.steps:
                with self._hook(step, BEGIN_RUN):
                    step.module.begin_run(self._run)
        piece = self.plan.piece_of(task)
        for step in self.path.steps:
            if step.tags:
                self._change(step, piece.interval, {role: piece.payloads[role] for role in step.tags})

    def _change(self, step: Step, interval: Any, payloads: dict[str, str]) -> None:
        if self._payloads.get(step.number) != payloads:
            with self._hook(step, CONDITIONS_CHANGED):
                step.module.conditions_changed(interval, self.conditions(payloads))
            self._payloads[step.number] = payloads

    # --- reading

    def _read(self, task: Task) -> Batch:
        self.progress[STEP] = -1
        plan = self.plan
        positions = plan.positions(task.start, task.stop)
        try:
            if self.ahead is not None:
                batch = self.ahead.read(task, positions)
            else:
                batch = self.reader.read(plan.record, positions, self.read_banks)
        except BeamwrightError:
            raise
        except MemoryError as error:
            raise Stumble(-1, error) from error  # fewer records at once may fit
        except Exception as error:
            keys = f"{plan.key(task.start)} to {plan.key(task.stop - 1)}"
            cause = f"{type(error).__name__}: {error}"
            raise FormatError(
                f"{type(self.reader).__name__} cannot read {plan.record} {keys}: {cause}",
                hint="check that its files are complete",
            ) from error
        self._check_read(batch, positions, task)
        batch.banks, batch.seed = self.banks, self.seed
        return batch

    def _check_read(self, batch: Batch, positions: NDArray[np.int64], task: Task) -> None:
        section, event = self.plan.index.keys_at(positions)
        same = batch.run == self.plan.run_of(task) and batch.n == len(positions)
        if not (same and _are_equal(batch.section, section) and _are_equal(batch.event, event)):
            raise FormatError(
                f"{type(self.reader).__name__} gives other {self.plan.record} records than its index says, "
                f"from {self.plan.key(task.start)} on",
                hint="index() and read() of a reader must agree",
            )
        missing = [name for name in self.read_banks if name not in batch.tables]
        if missing:
            raise FormatError(
                f"{type(self.reader).__name__} gives no bank {missing[0]!r}", hint="its banks() promises it"
            )

    # --- modules

    def _call(self, step: Step, batch: Batch) -> None:
        if step.condition is not None:
            self._call_selected(step, batch, step.condition.mask(batch))
        elif batch.n:
            self._process(step, batch)
        else:
            for name in step.writes - batch.tables.keys():
                batch.tables[name] = Table.empty(self.banks[name], 0)

    def _process(self, step: Step, batch: Batch) -> None:
        """Run a module on a batch within its fences: time, errors, declared banks, length."""
        n = batch.n
        self._within(step, batch, step.module.process)
        if batch.n != n or len(batch.event) != n:
            raise ModuleError(
                f"module {step.name} changed the length of the batch from {n} to {len(batch.event)}",
                hint="select() marks records, a Builder makes new ones",
            )
        if step.writes and not step.writes <= batch.tables.keys():
            name = sorted(step.writes - batch.tables.keys())[0]
            raise ModuleError(
                f"module {step.name} declares bank {name!r} and did not write it",
                hint="write it, or take it out of writes",
            )

    def _within(self, step: Step, batch: Batch, work: Callable[[Batch], B]) -> B:
        """Let a module work on a batch, its scope, time and errors fenced."""
        number = step.number
        self.progress[STEP] = number
        batch.scope = step.scope
        is_measured = self._tasks % _MEASURED == 1
        before = resident_bytes() if is_measured else 0
        begun = perf_counter_ns()
        try:
            made = work(batch)
        except (ModuleError, UnknownNameError):
            raise
        except (Exception, SystemExit) as error:
            raise Stumble(number, error) from error
        spent = perf_counter_ns() - begun
        grown = max(resident_bytes() - before, 0) if is_measured else -1
        if step.module.compile_ns:
            apart, step.module.compile_ns = step.module.compile_ns, 0
            self._calls.append((number, COMPILE, 0, apart, -1))
            spent -= apart
        self._calls.append((number, PROCESS, batch.n, spent, grown))
        batch.scope = None
        return made

    def _call_selected(self, step: Step, batch: Batch, mask: Mask) -> None:
        part = batch.take(mask)
        if part.n:
            self._process(step, part)
        batch.skipped = batch.skipped or not part.n or part.skipped
        for name in step.writes:
            made = part.tables[name] if part.n else Table.empty(self.banks[name], 0)
            batch.tables[name] = made.spread(mask)
        for name, found in part.selections.items():
            if name not in batch.selections:
                whole = np.zeros(batch.n, np.bool_)
                whole[mask] = found
                batch.selections[name] = whole
        for name, arrays in part.deposits.items():
            batch.deposit(name, arrays)

    def _build(self, step: Step, batch: Batch) -> Batch:
        builder = step.module
        assert isinstance(builder, Builder), "step.builds says so"
        created = self._within(step, batch, builder.build)
        _check_created(step, builder, batch, created)
        return created if self.again is None else created.take(self.again.among_made(created))

    # --- results

    def _result(self, task: Task, batch: Batch, created: Batch | None) -> Result:
        result = Result(calls=self._calls)
        if task.stage is not Stage.AFTER:
            result.loaded = batch.n
            result.deposits = batch.deposits
            self._outputs(result, batch)
        if created is None:
            return result
        if task.stage is not Stage.AFTER:
            result.created_section, result.created_event = created.section, created.event
        if task.stage is not Stage.BUILD:
            _join_deposits(result.deposits, created.deposits)
            self._outputs(result, created)
        return result

    def _outputs(self, result: Result, batch: Batch) -> None:
        for output in self.streams:
            if self.path.record_of(output) != batch.record:
                continue
            part = batch.only(self.path.carried(output))
            masks = [condition(output.select).mask(batch)] if output.select is not None else []
            if self.again is not None and batch.record == self.path.record:
                masks.append(self.again.among_read(batch))  # a parent alone was written before
            if masks:
                mask = np.logical_and.reduce(masks)
                result.filtered[output.stream] = int((~mask).sum())
                part = part.take(mask)
            result.outputs[output.stream] = part


class _Fence:
    """Turns what a module raises outside ``process`` into an error that names it: there is no record to
    blame.
    """

    def __init__(self, module: str, hook: str) -> None:
        self.module, self.hook = module, hook

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: Any) -> None:
        if isinstance(error, Exception | SystemExit) and not isinstance(error, BeamwrightError):
            raise ModuleError(
                f"module {self.module} failed in {self.hook}: {type(error).__name__}: {error}",
                hint="no event is to blame; mend the module or its parameters",
            ) from error


def _are_equal(values: NDArray[Any], expected: NDArray[Any]) -> bool:
    """Tell whether arrays are equal; those in one place need no look."""
    places = [(a.__array_interface__["data"][0], a.strides, a.shape) for a in (values, expected)]
    return places[0] == places[1] or np.array_equal(values, expected)


def _join_deposits(into: Deposits, more: Mapping[str, Any]) -> None:
    for name, arrays in more.items():
        held = into.setdefault(name, {})
        for key, array in arrays.items():
            held[key] = held[key] + array if key in held else array


def _check_created(step: Step, builder: Builder, batch: Batch, created: Batch) -> None:
    """Check that created records are in order and have their parents in the batch, in the same section."""
    wrong = ""
    if getattr(created, "record", None) != builder.builds:
        wrong = f"gives {created!r} instead of a batch of {builder.builds}"
    elif created.parent_section is None or created.parent_event is None:
        wrong = "gives records without parents"
    elif not is_ascending(created.section, created.event):
        wrong = "gives records whose keys do not rise"
    elif created.run != batch.run or not np.array_equal(created.section, created.parent_section):
        wrong = "gives records in another run or section than their parents"
    elif not are_among(created.section, created.parent_event, batch.section, batch.event).all():
        wrong = "gives records whose parents are not in the batch"
    if wrong:
        raise ModuleError(
            f"builder {step.name} {wrong}", hint="make them with self.create(batch, parents, events)"
        )
