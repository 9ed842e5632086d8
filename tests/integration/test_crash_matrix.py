"""The crash matrix: whatever a module does to its process on one event, that event alone is lost."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path as FilePath
from typing import Any

import numpy as np
import pytest

from beamwright.conditions.snapshot import Snapshot
from beamwright.core.errors import ModuleError, UsageError
from beamwright.core.lineage import Lineage
from beamwright.core.runs import Interval
from beamwright.event.batch import Batch
from beamwright.event.loop import Limits, run_path
from beamwright.event.module import Module, Parameter
from beamwright.event.path import Path
from beamwright.event.plan import Again
from beamwright.event.store import CollectionReader
from beamwright.event.validate import validate_file
from support import toy

pytestmark = pytest.mark.forks

RUN = Interval.sections("A", 7)
# A record that takes longer than this is taken for one that never ends: far longer than any other takes.
STUCK_S = 0.5
LIMITS = Limits(event_s=STUCK_S, memory_mb=128)
WAYS = {
    # what it does: (the error that is told, where the traceback leads)
    "raise": ("ValueError: this event is poisoned", "_raise"),
    "segfault": ("killed by SIGSEGV", "_segfault"),
    "loop": (f"more than {STUCK_S:g} s", "_loop"),
    "hog": ("MemoryError: Unable to allocate", "_hog"),
    "kill": ("killed by SIGKILL", "could leave no traceback"),
    "exit": ("ended the process with code 3", "could leave no traceback"),
}


def lineage(stream: str) -> Lineage:
    return Lineage("toy", "p", "s", "path", stream, "dst", "A", "release", "config")


class Lab:
    """Runs paths of the toy experiment over one raw file of 300 events."""

    def __init__(self, folder: FilePath) -> None:
        self.folder, self.passes = folder, 0
        self.raw = toy.write_raw(folder / "raw.json", "A", 7, {"event": toy.grid(range(1, 11), 30)})

    def run(self, path: Path, **options: Any) -> tuple[Any, dict[str, FilePath]]:
        self.passes += 1
        files = {o.stream: self.folder / f"{self.passes}-{o.stream}.root" for o in path.outputs}
        given = {"banks": toy.BANKS, "lineage": lineage, "outputs": files, "batch_events": 40}
        reader = toy.ToyReader(self.raw, "A", 7)
        return run_path(path, reader, RUN, **given | options), files


@pytest.fixture
def lab(tmp_path: FilePath) -> Lab:
    return Lab(tmp_path)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files without the poisoned event, and with its key in their lineage."""
    lab = Lab(tmp_path_factory.mktemp("expected"))
    _, files = lab.run(toy.events_path(toy.Trouble(section=9)), limits=Limits())
    return {stream: file.read_bytes() for stream, file in files.items()}


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("how", WAYS)
def test_exactly_the_poisoned_event_is_quarantined_with_key_module_and_traceback(
    lab: Lab, expected: dict[str, bytes], how: str, workers: int
) -> None:
    error, place = WAYS[how]
    path = toy.events_path(toy.Trouble(how=how, section=9))
    # Where nothing is stuck, no time is short; and taking memory takes time, too.
    limits = {"loop": LIMITS, "hog": Limits(memory_mb=64)}.get(how, Limits(60.0, memory_mb=128))
    result, files = lab.run(path, workers=workers, limits=limits)
    (found,) = result.quarantined
    assert (found["key"], found["record"], found["module"]) == ("A:7:9:4", "event", "Trouble")
    assert found["error"].startswith(error)
    assert place in found["traceback"]
    assert {stream: file.read_bytes() for stream, file in files.items()} == expected


@pytest.mark.parametrize("events", [[(1, 0)], [(1, 0), (1, 1)], [(1, n) for n in range(90)]])
def test_a_poisoned_first_last_or_only_event_loses_itself_alone(
    lab: Lab, events: list[tuple[int, int]]
) -> None:
    raw = toy.write_raw(lab.folder / "few.json", "A", 7, {"event": events})
    for section, event in {events[0], events[-1]}:
        path = toy.events_path(toy.Trouble(how="segfault", section=section, event=event))
        dst = lab.folder / f"{event}.root"
        result = run_path(
            path, toy.ToyReader(raw, "A", 7), RUN, banks=toy.BANKS, lineage=lineage, workers=2,
            outputs={"dst": dst}, batch_events=40,
        )  # fmt: skip
        assert [bad["key"] for bad in result.quarantined] == [f"A:7:{section}:{event}"]
        verdict = validate_file(dst)
        assert (verdict["problems"], verdict["events"]) == ([], len(events) - 1)


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_killed_from_outside_lose_nothing(lab: Lab, workers: int) -> None:
    """Someone kills workers by SIGKILL while they work, again and again: no event is missing."""

    class Slow(Module):
        def process(self, batch: Batch) -> None:
            time.sleep(0.02)

    path = toy.events_path(Slow())
    healthy, files = lab.run(path, workers=2)
    stop, one_died, killed = threading.Event(), threading.Event(), []

    def kill() -> None:
        while not stop.wait(0.05) and len(killed) < 3:
            for pid in _grandchildren(os.getpid()):
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
                one_died.set()
                break

    def started(done: int, of: int) -> None:
        if killer.ident is None:
            killer.start()
            assert one_died.wait(120), "there was no worker to kill"  # the others go on meanwhile

    killer = threading.Thread(target=kill)
    try:
        result, others = lab.run(
            path, workers=workers, isolated=True, batch_events=10, progress=started, limits=Limits()
        )
    finally:
        stop.set()
        if killer.ident is not None:
            killer.join()
    assert killed
    assert result.quarantined == [] == healthy.quarantined
    for stream, file in files.items():
        assert others[stream].read_bytes() == file.read_bytes()


def _grandchildren(pid: int) -> list[int]:
    """Return the workers: the children of the process that they are forked from."""
    return [grand for child in _children(pid) for grand in _children(child)]


def _children(pid: int) -> list[int]:
    try:
        return [int(p) for p in FilePath(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def test_a_stuck_first_batch_is_ended_too(lab: Lab) -> None:
    """Nothing was learnt yet of how long batches take."""
    path = toy.events_path(toy.Trouble(how="loop", section=1, event=2))
    result, _ = lab.run(path, limits=Limits(event_s=0.3), batch_events=4)
    assert [q["key"] for q in result.quarantined] == ["A:7:1:2"]


# --- memory


class Hungry(Module):
    """Takes memory in proportion to the batch."""

    reads = ("Hit",)
    megabytes = Parameter(1, "MB", "for each record")

    def process(self, batch: Batch) -> None:
        np.ones(batch.n * self.megabytes << 17)


class HungryReader(toy.ToyReader):
    """Takes 1 MB for each record that it reads."""

    def read(self, record: str, positions: Any, banks: Any = None) -> Batch:
        np.ones(len(positions) << 17)
        return super().read(record, positions, banks)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_batch_larger_than_memory_allows_is_split_and_loses_nothing(lab: Lab, workers: int) -> None:
    _, expected = lab.run(toy.events_path())
    limits = Limits(memory_mb=100)
    reader = HungryReader(lab.raw, "A", 7)
    for path, given in ((toy.events_path(Hungry()), None), (toy.events_path(), reader)):
        options = {} if given is None else {"reader": given}
        files = {o.stream: lab.folder / f"{workers}-{given is None}-{o.stream}.root" for o in path.outputs}
        result = run_path(
            path, options.get("reader", toy.ToyReader(lab.raw, "A", 7)), RUN, banks=toy.BANKS,
            lineage=lineage, outputs=files, batch_events=300, workers=workers, limits=limits,
        )  # fmt: skip
        assert result.quarantined == []
        for stream, file in files.items():
            assert file.read_bytes() == expected[stream].read_bytes()


def test_a_record_larger_than_memory_allows_is_named(lab: Lab) -> None:
    with pytest.raises(ModuleError, match="module Hungry fails on more than 2 records.*MemoryError"):
        lab.run(toy.events_path(Hungry(megabytes=128)), limits=Limits(memory_mb=64, quarantined=2))


# --- the quarantine alone, after a fix


@pytest.mark.parametrize("workers", [1, 2])
def test_only_the_quarantined_are_run_again_and_complete_the_first_output(lab: Lab, workers: int) -> None:
    poisoned = toy.events_path(toy.Trouble(section=9), toy.Trouble(section=2, how="kill"))
    result, first = lab.run(poisoned, limits=LIMITS)
    keys = [tuple(map(int, q["key"].split(":")[1:])) for q in result.quarantined]
    assert keys == [(7, 2, 4), (7, 9, 4)]
    mended = toy.events_path(toy.Trouble(section=99), toy.Trouble(section=99))
    again, second = lab.run(mended, only=Again(frozenset(keys), {}), workers=workers)
    assert [line["read"] for line in again.ledger] == [2, 2]
    _, whole = lab.run(mended)
    with CollectionReader([first["dst"], second["dst"]]) as both, CollectionReader([whole["dst"]]) as one:
        mixed, straight = next(both.batches()), next(one.batches())
    assert np.array_equal(mixed.event, straight.event) and mixed.n == 300
    for name, table in straight.tables.items():
        for column, values in table.columns.items():
            other = mixed.tables[name].columns[column]
            assert np.array_equal(getattr(values, "values", values), getattr(other, "values", other))


def test_a_key_that_is_not_in_the_inputs_is_refused(lab: Lab) -> None:
    with pytest.raises(UsageError, match="no record A:7:9:77 in the inputs"):
        lab.run(toy.events_path(), only=Again(frozenset({(7, 9, 77)}), {}))


# --- hooks that work on no record


class Ending(Module):
    """Ends its process in one hook."""

    reads = ("Gain@conditions",)
    hook = Parameter("begin_run", "", "where")
    how = Parameter("segfault", "", "segfault, exit, kill, sleep or nothing")
    once = Parameter("", "", "a file: end only while it is not there, and make it")
    seconds = Parameter(1000.0, "s", "how long it sleeps")

    def begin_run(self, run: Any) -> None:
        self._end("begin_run")

    def conditions_changed(self, interval: Any, conditions: Any) -> None:
        self._end("conditions_changed")

    def process(self, batch: Batch) -> None:
        pass

    def end_run(self, run: Any) -> None:
        self._end("end_run")

    def _end(self, hook: str) -> None:
        if hook != self.hook or (self.once and FilePath(self.once).exists()):
            return
        if self.once:
            FilePath(self.once).touch()
        if self.how == "sleep":
            time.sleep(self.seconds)
        elif self.how == "exit":
            os._exit(3)
        elif self.how == "system-exit":
            raise SystemExit(4)
        else:
            os.kill(os.getpid(), {"segfault": signal.SIGSEGV, "kill": signal.SIGKILL}[self.how])


GAINS = Snapshot(
    "g", [("Gain", Interval.sections("A", 7), toy.gain_payload(1.0).id)],
    {toy.gain_payload(1.0).id: toy.gain_payload(1.0)},
)  # fmt: skip


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("hook", ["begin_run", "conditions_changed", "end_run"])
def test_a_hook_that_ends_its_process_is_named_and_no_event_is_blamed(
    lab: Lab, hook: str, workers: int
) -> None:
    for how, error in (
        ("segfault", "killed by SIGSEGV"),
        ("exit", "ended the process with code 3"),
        ("system-exit", "SystemExit: 4"),
    ):
        with pytest.raises(ModuleError, match=f"module Ending failed in {hook}: {error}") as raised:
            path = toy.events_path(Ending(hook=hook, how=how))
            lab.run(path, workers=workers, isolated=True, snapshot=GAINS)
        assert "no event is to blame" in raised.value.hint
    assert hook == "end_run" or [*lab.folder.glob("*.root")] == []


@pytest.mark.parametrize("hook", ["begin_run", "conditions_changed", "end_run"])
def test_a_worker_killed_in_a_hook_is_replaced_and_nothing_is_lost(
    lab: Lab, expected: dict[str, bytes], hook: str
) -> None:
    path = toy.events_path(
        Ending(hook=hook, how="kill", once=str(lab.folder / "killed")), toy.Trouble(section=9)
    )
    result, files = lab.run(path, workers=2, snapshot=GAINS)
    assert (lab.folder / "killed").exists()
    assert [bad["key"] for bad in result.quarantined] == ["A:7:9:4"]
    assert {stream: file.read_bytes() for stream, file in files.items()} == expected


@pytest.mark.parametrize("hook", ["begin_run", "end_run"])
def test_a_stuck_hook_is_ended_with_its_place(lab: Lab, hook: str) -> None:
    path = toy.events_path(Ending(hook=hook, how="sleep"))
    limits = Limits(event_s=5.0, hook_s=2.0)
    with pytest.raises(ModuleError, match=f"module Ending failed in {hook}: more than 2 s") as raised:
        lab.run(path, limits=limits, snapshot=GAINS)
    assert "in _end" in raised.value.data["traceback"]


@pytest.mark.parametrize("isolated", [False, True])
def test_what_hooks_take_counts_against_no_event(lab: Lab, isolated: bool) -> None:
    """Each record is a batch; the first would be late with the hook before it."""
    raw = toy.write_raw(lab.folder / "few.json", "A", 7, {"event": [(1, 0), (1, 1)]})
    result = run_path(
        toy.events_path(Ending(hook="begin_run", how="sleep", seconds=3.0)), toy.ToyReader(raw, "A", 7), RUN,
        banks=toy.BANKS, snapshot=GAINS, limits=Limits(event_s=2.0), batch_events=1, isolated=isolated,
    )  # fmt: skip
    assert result.quarantined == [] and result.statistics["records"] == 2
