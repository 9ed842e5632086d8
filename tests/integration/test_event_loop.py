"""The event loop: the same bytes for any number of workers, poison isolated, every record accounted for."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

import numpy as np
import pytest

from beamwright.conditions.snapshot import Snapshot
from beamwright.core.errors import (
    ConditionsError,
    FormatError,
    LedgerError,
    ModuleError,
    NotCoveredError,
    SchemaMismatchError,
    UnknownNameError,
    UsageError,
)
from beamwright.core.lineage import Lineage
from beamwright.core.runs import Interval
from beamwright.event.banks import Bank, BankSet
from beamwright.event.batch import Batch, Table
from beamwright.event.calibration import Calibration, Fit, collect_path, pack_accumulators
from beamwright.event.commit import LoopResult, check_balance
from beamwright.event.keys import prescaled
from beamwright.event.loop import Limits, run_path
from beamwright.event.module import Module, RunInfo
from beamwright.event.path import Output, Path, When, branch
from beamwright.event.store import CollectionReader
from beamwright.event.validate import validate_file
from beamwright.event.workers import WorkerPool
from support import toy

pytestmark = pytest.mark.forks

RUN = Interval.sections("A", 7)
TRACE = Bank.from_document("Trace", {"columns": {"number": {"type": "i4"}}})
BRANCHES = BankSet([*toy.BANKS.values(), TRACE])


def lineage(stream: str) -> Lineage:
    return Lineage("toy", "p", "s", "path", stream, "dst", "A", "release", "config")


@dataclass
class Lab:
    """Runs paths of the toy experiment over one raw file and keeps their files apart."""

    folder: FilePath
    passes: int = 0

    def __post_init__(self) -> None:
        keys = toy.grid(range(1, 11), 30)
        records = {"event": keys, "slice": toy.grid(range(1, 11), 5)}
        self.raw = toy.write_raw(self.folder / "raw.json", "A", 7, records)

    def run(self, path: Path, **options: Any) -> tuple[LoopResult, dict[str, FilePath]]:
        self.passes += 1
        files = {o.stream: self.folder / f"{self.passes}-{o.stream}.root" for o in path.outputs}
        options = {"banks": toy.BANKS, "lineage": lineage, "outputs": files, "batch_events": 40} | options
        reader = options.pop("reader", None) or toy.ToyReader(self.raw, "A", 7)
        return run_path(path, reader, options.pop("interval", RUN), **options), files

    def everything(self, path: Path, **options: Any) -> tuple[Any, ...]:
        """Return all that must not depend on workers and batches."""
        result, files = self.run(path, **options)
        contents = {stream: file.read_bytes() for stream, file in files.items()}
        bad = [(q["key"], q["record"], q["module"], q["error"]) for q in result.quarantined]
        return contents, result.ledger, result.histograms.to_bytes(), bad


@pytest.fixture
def lab(tmp_path: FilePath) -> Lab:
    return Lab(tmp_path)


def line(result: LoopResult, stream: str, record: str = "event") -> dict[str, Any]:
    (found,) = [x for x in result.ledger if (x["stream"], x["record"]) == (stream, record)]
    return dict(found)


@pytest.mark.parametrize("batch_events", [3, 40, 1000])
@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("make", [toy.events_path, toy.bursts_path])
def test_files_ledger_and_histograms_are_the_same_for_any_workers_and_batches(
    lab: Lab, make: Callable[[], Path], workers: int, batch_events: int
) -> None:
    expected = lab.everything(make())
    assert all(expected[0].values())
    assert lab.everything(make(), workers=workers, batch_events=batch_events) == expected
    if workers == 1:
        assert lab.everything(make(), isolated=True, batch_events=batch_events) == expected


class SumOfFloats(Calibration):
    """Adds floating-point numbers whose sum depends on their order."""

    tags = ("Scale",)
    record = "event"
    reads = ("Hit",)

    def empty(self) -> dict[str, Any]:
        return {"sum": np.zeros(8, np.float32), "squares": np.zeros(3)}

    def collect(self, batch: Batch, conditions: Any) -> dict[str, Any]:
        hits = batch["Hit"]
        sums = np.bincount(hits.channel, hits.charge, minlength=8).astype(np.float32)
        return {"sum": sums * np.float32(1e4), "squares": np.full(3, float((hits.charge**3).sum()))}

    def statistics(self, accumulator: Any) -> float:
        return float(accumulator["squares"][0])

    def fit(self, accumulator: Any, previous: Any) -> Fit:
        return Fit({})


def test_floating_point_accumulators_are_bit_equal_for_any_number_of_workers(lab: Lab) -> None:
    def collect(workers: int, batch_events: int) -> bytes:
        reader = toy.ToyReader(lab.raw, "A", 7)
        found = collect_path(
            [SumOfFloats()], reader, RUN, banks=toy.BANKS, workers=workers, batch_events=batch_events,
            isolated=workers == 1 and batch_events == 7,
        )  # fmt: skip
        return pack_accumulators(found.accumulators, {})

    for batch_events in (7, 40):
        found = {collect(workers, batch_events) for workers in (1, 2, 3)}
        assert len(found) == 1
    # The order of the sum follows the batches, so that batches of another size may round otherwise.
    assert len({collect(1, size) for size in (1, 7, 40, 300)}) > 1


def test_branches_on_selections_and_columns_share_the_records_out(lab: Lab) -> None:
    """Two branches, one within the other, and three streams, each with its own condition and banks."""

    class Number(Module):
        """Writes what it is told to, for the records that it gets."""

        def __init__(self, bank: str) -> None:
            super().__init__()
            self.reads, self.writes = (), (bank,)

        def process(self, batch: Batch) -> None:
            columns = {c.name: np.full(batch.n, 1) for c in batch.bank(self.writes[0]).columns}
            batch[self.writes[0]] = Table.from_counts(self.writes[0], np.ones(batch.n, int), columns)

    class Late(Module):
        """Selects among the records that it gets."""

        reads = ("Header",)

        def process(self, batch: Batch) -> None:
            batch.select(batch.section > 9, "late")

    def path() -> Path:
        return Path(
            "branches", "event",
            [toy.Plain(), toy.Sum(),
             branch("loud and Header.energy > 4", [Late(), Number("Shower")], [Number("Pulse")]),
             When([Number("Trace")], "late or Sum.hits == 0")],
            [Output("high", ["Header", "Shower"], "loud and Header.energy > 4"),
             Output("low", ["Header", "Pulse"], "not (loud and Header.energy > 4)", tier="mdst"),
             Output("marked", ["Sum", "Trace"], "late or Sum.hits == 0", tier="skim")],
        )  # fmt: skip

    expected = lab.everything(path(), banks=BRANCHES, batch_events=7)
    for workers, batch_events in ((2, 30), (3, 1000), (1, 1)):
        assert lab.everything(path(), banks=BRANCHES, workers=workers, batch_events=batch_events) == expected
    result, files = lab.run(path(), banks=BRANCHES)
    whole, all_files = lab.run(toy.events_path())
    with CollectionReader([all_files["dst"]]) as reader:
        dst = reader.read("event", np.arange(300))
    high = (dst["Sum"].energy > 5) & (dst["Header"].energy > 4)
    marked = (high & (dst.section > 9)) | (dst["Sum"].hits == 0)
    for stream, mask, bank in (
        ("high", high, "Shower"),
        ("low", ~high, "Pulse"),
        ("marked", marked, "Trace"),
    ):
        assert 0 < mask.sum() < 300
        assert line(result, stream)["written"] == mask.sum()
        with CollectionReader([files[stream]]) as reader:
            batch = reader.read("event", np.arange(mask.sum()))
        assert np.array_equal(batch.event, dst.event[mask])
        assert (batch[bank].counts == 1).all()
        assert validate_file(files[stream])["valid"]
    assert whole.ledger[0]["read"] == 300


def test_the_files_are_valid_and_hold_the_selected_records(lab: Lab) -> None:
    result, files = lab.run(toy.events_path())
    assert all(validate_file(file)["valid"] for file in files.values())
    with CollectionReader([files["dst"]]) as reader:
        dst = reader.read("event", np.arange(300))
    loud = np.flatnonzero(dst["Sum"].energy > 5.0)
    assert line(result, "loud")["written"] == len(loud) > 0
    with CollectionReader([files["loud"]]) as reader:
        skim = reader.read("event", np.arange(len(loud)))
    assert np.array_equal(skim.event, dst.event[loud])
    assert (dst["Hit"].charge[dst["CalHit"].follow("hit", dst["Hit"])] == dst["CalHit"].energy).all()


def test_a_conditional_module_leaves_the_other_records_without_rows(lab: Lab) -> None:
    _, files = lab.run(toy.events_path())
    with CollectionReader([files["dst"]]) as reader:
        dst = reader.read("event", np.arange(300))
    loud = dst["Sum"].energy > 5.0
    assert (dst["Shower"].counts[~loud] == 0).all()
    assert (dst["Shower"].counts[loud] > 0).all()


# --- crashes


ERRORS = {
    "raise": "ValueError: this event is poisoned",
    "memory": "MemoryError: no more memory",
    "system-exit": "SystemExit: 4",
    "kill": "killed by SIGKILL",
    "segfault": "killed by SIGSEGV",
    "exit": "ended the process with code 3",
}
SURVIVABLE = ("raise", "memory", "system-exit")


@pytest.mark.parametrize("how", ERRORS)
def test_a_poisoned_event_loses_only_itself_whoever_works(lab: Lab, how: str) -> None:
    def path() -> Path:
        return toy.events_path(toy.Trouble(how=how))

    expected = lab.everything(path(), workers=2)
    contents, ledger, _, bad = expected
    assert bad == [("A:7:3:4", "event", "Trouble", ERRORS[how])]
    assert [(x["read"], x["quarantined"]) for x in ledger] == [(300, 1), (300, 1)]
    for workers in (1, 3):
        assert lab.everything(path(), workers=workers, isolated=True, batch_events=300) == expected
    if how in SURVIVABLE:
        assert lab.everything(path()) == expected
    healthy = lab.everything(toy.events_path())
    assert contents != healthy[0]


def test_the_quarantine_names_module_and_place_in_its_code(lab: Lab) -> None:
    serial, _ = lab.run(toy.events_path(toy.Trouble()))
    forked, _ = lab.run(toy.events_path(toy.Trouble(how="segfault")), workers=2)
    assert "toy.py" in serial.quarantined[0]["traceback"] and "_raise" in serial.quarantined[0]["traceback"]
    assert "engine.py" not in serial.quarantined[0]["traceback"]
    assert "Segmentation fault" in forked.quarantined[0]["traceback"]
    assert "_segfault" in forked.quarantined[0]["traceback"]


@pytest.mark.parametrize("workers", [1, 3])
def test_a_worker_that_dies_once_costs_nothing(lab: Lab, workers: int) -> None:
    expected = lab.everything(toy.events_path(toy.Trouble(section=99)))
    module = toy.Trouble(how="kill", once=str(lab.folder / f"died{workers}"))
    assert lab.everything(toy.events_path(module), workers=workers, isolated=True)[:4] == expected
    assert (lab.folder / f"died{workers}").exists()


def test_a_retried_batch_leaves_no_trace_in_histograms(lab: Lab) -> None:
    module = toy.Trouble(how="raise", once=str(lab.folder / "raised"))
    assert lab.everything(toy.events_path(module)) == lab.everything(toy.events_path())


@pytest.mark.parametrize("workers", [1, 2])
def test_an_endless_loop_is_ended_by_the_time_limit_of_an_event(lab: Lab, workers: int) -> None:
    raw = toy.write_raw(lab.folder / "few.json", "A", 7, {"event": toy.grid([3], 6)})
    result, _ = lab.run(
        toy.events_path(toy.Trouble(how="loop")),
        workers=workers,
        limits=Limits(event_s=0.3),
        reader=toy.ToyReader(raw, "A", 7),
    )
    assert [(q["key"], q["error"]) for q in result.quarantined] == [("A:7:3:4", "more than 0.3 s")]
    assert line(result, "dst")["written"] == 5


def test_a_module_that_fails_everywhere_ends_the_pass_and_names_itself(lab: Lab) -> None:
    class Broken(Module):
        def process(self, batch: Batch) -> None:
            raise ZeroDivisionError("division by zero")

    for workers in (1, 2):
        with pytest.raises(ModuleError, match="module Broken fails on more than 5 records.*division by zero"):
            lab.run(toy.events_path(Broken()), workers=workers, limits=Limits(quarantined=5))
    assert not list(lab.folder.glob("*.root"))


def test_a_poisoned_created_record_leaves_its_siblings_and_its_parent(lab: Lab) -> None:
    expected = lab.everything(toy.bursts_path(toy.Trouble(event=101)))
    _, ledger, _, bad = expected
    assert bad == [("A:7:3:101", "burst", "Trouble", ERRORS["raise"])]
    created = next(x for x in ledger if (x["stream"], x["record"]) == ("burst", "burst"))
    assert created["quarantined"] == 1
    assert created["created"] == created["written"] + created["filtered"] + 1
    healthy, _ = lab.run(toy.bursts_path())
    assert created["created"] == line(healthy, "burst", "burst")["created"]
    assert next(x for x in ledger if x["stream"] == "slices")["written"] == 50
    for workers, how in ((1, "kill"), (2, "segfault"), (3, "raise")):
        other = lab.everything(
            toy.bursts_path(toy.Trouble(event=101, how=how)), workers=workers, isolated=True, batch_events=9
        )
        assert other[:3] == expected[:3]


def test_a_record_that_poisons_its_builder_is_quarantined_itself(lab: Lab) -> None:
    path = toy.bursts_path()
    poisoned = Path("bursts", "slice", [toy.Trouble(), *path.modules], path.outputs)
    result, _ = lab.run(poisoned)
    assert [(q["key"], q["record"]) for q in result.quarantined] == [("A:7:3:4", "slice")]
    assert (
        line(result, "burst", "slice")["quarantined"] == line(result, "slices", "slice")["quarantined"] == 1
    )
    assert line(result, "burst", "burst")["quarantined"] == 0


# --- accounts


def test_created_records_and_their_parents_balance(lab: Lab) -> None:
    result, files = lab.run(toy.bursts_path())
    made, parents = line(result, "early", "burst"), line(result, "early", "slice")
    assert made["created"] == made["written"] + made["filtered"]
    assert made["filtered"] > 0
    assert (made["read"], parents["created"]) == (0, 0)
    with CollectionReader([files["early"]]) as reader:
        early = reader.read("burst", np.arange(made["written"]))
    pairs = set(zip(early.parent_section.tolist(), early.parent_event.tolist(), strict=True))  # type: ignore[union-attr]
    assert parents["written"] == len(pairs)
    assert parents["read"] == 50 == parents["written"] + parents["filtered"]


def test_a_prescale_is_counted_and_does_not_depend_on_batches(lab: Lab) -> None:
    expected = lab.everything(toy.events_path(), prescale=3)
    dst = next(x for x in expected[1] if x["stream"] == "dst")
    index = toy.ToyReader(lab.raw, "A", 7).index("event")
    kept = prescaled(index.run, index.section, index.event, 3)
    assert (dst["read"], dst["written"], dst["prescaled"]) == (300, kept.sum(), (~kept).sum())
    assert lab.everything(toy.events_path(), prescale=3, workers=2, batch_events=11) == expected


def test_an_interval_limits_what_is_read(lab: Lab) -> None:
    result, _ = lab.run(toy.events_path(), interval=Interval("A", (7, 2, 10), (7, 3, 4)))
    assert line(result, "dst")["read"] == 20 + 5
    empty, files = lab.run(toy.events_path(), interval=Interval.sections("A", 8))
    assert line(empty, "dst")["read"] == 0
    assert validate_file(files["dst"])["valid"]


@pytest.mark.parametrize("term", ["read", "created", "written", "filtered", "prescaled", "quarantined"])
def test_a_planted_miscount_of_each_term_is_caught(lab: Lab, term: str) -> None:
    result, _ = lab.run(toy.bursts_path(toy.Trouble(event=101)), prescale=2)
    for found in result.ledger:
        check_balance(found)
        with pytest.raises(LedgerError, match="came and"):
            check_balance(found | {term: found[term] + 1})  # type: ignore[literal-required, typeddict-item]


def test_a_writer_that_loses_a_record_is_caught(lab: Lab) -> None:
    class Losing:
        events = 0

        def write(self, batch: Batch) -> None:
            self.events += batch.n

        def close(self, quarantined: Any = ()) -> Any:
            self.events -= 1
            return self

        def abort(self) -> None: ...

    with pytest.raises(LedgerError, match="300 came and 299 are accounted for"):
        lab.run(toy.events_path(), sinks=lambda output: Losing())


# --- contracts of modules


class Odd(Module):
    """Breaks one rule."""

    reads = ("Hit",)
    writes = ("CalHit",)

    def __init__(self, what: Callable[[Batch], None]) -> None:
        super().__init__()
        self.what = what

    def process(self, batch: Batch) -> None:
        self.what(batch)


def lengthen(batch: Batch) -> None:
    batch["CalHit"] = Table.empty(toy.BANKS["CalHit"], batch.n)
    batch.event = np.append(batch.event, batch.event[-1:])


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("what", "message"),
    [
        (lambda batch: batch["Header"], "reads bank 'Header', which it does not declare"),
        (lambda batch: batch.__setitem__("Sum", {"energy": [], "hits": []}), "writes bank 'Sum'"),
        (lambda batch: None, "declares bank 'CalHit' and did not write it"),
        (lambda batch: batch.__setitem__("CalHit", Table.empty(toy.BANKS["CalHit"], 1)), "for 1 records"),
        (lengthen, "changed the length of the batch"),
        (lambda batch: batch.selected("laud"), "no selection is called 'laud'"),
    ],
)
def test_a_module_that_breaks_its_contract_ends_the_pass_and_is_named(
    lab: Lab, what: Callable[[Batch], None], message: str, workers: int
) -> None:
    path = Path("odd", "event", [Odd(what)], [Output("o", ["Header"])])
    with pytest.raises((ModuleError, UnknownNameError), match=message) as caught:
        lab.run(path, workers=workers)
    assert caught.value.hint  # the next step
    assert not list(lab.folder.glob("*.root"))


def test_an_output_with_an_unknown_selection_ends_the_pass(lab: Lab) -> None:
    path = Path("odd", "event", [toy.Plain(), toy.Sum()], [Output("o", ["Sum"], select="laud")])
    with pytest.raises(UnknownNameError) as caught:
        lab.run(path, workers=2)
    assert "loud" in caught.value.hint


class Builds(toy.Split):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def build(self, batch: Batch) -> Batch:
        made = super().build(batch)
        if self.how == "order":
            made.event = made.event[::-1].copy()
        elif self.how == "section":
            made.section = made.section + np.uint32(1)
        elif self.how == "parents":
            made.parent_event = made.event
        elif self.how == "numbers":
            made.event = np.arange(made.n, dtype=np.uint64)
        else:
            made.parent_event = None
        return made


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("order", "keys do not rise"),
        ("section", "another run or section"),
        ("parents", "parents are not in the batch"),
        ("orphans", "without parents"),
    ],
)
def test_a_builder_whose_records_are_out_of_order_or_without_parents_is_named(
    lab: Lab, how: str, message: str
) -> None:
    path = Path("odd", "slice", [Builds(how)], [Output("o", ["Burst"])])
    with pytest.raises(ModuleError, match=f"builder Builds gives records.*{message}"):
        lab.run(path)


def test_created_numbers_that_start_anew_in_each_batch_are_refused(lab: Lab) -> None:
    path = Path("odd", "slice", [Builds("numbers")], [Output("o", ["Burst"])])
    with pytest.raises(ModuleError, match="goes back to"):
        lab.run(path, batch_events=2)


class Hooks(Module):
    reads = ("Hit", "Gain@conditions")

    def __init__(self, fail: str = "") -> None:
        super().__init__()
        self.fail, self.calls = fail, []

    def note(self, what: str) -> None:
        self.calls.append(what)
        if what.split(maxsplit=1)[0] == self.fail:
            raise RuntimeError("no such table")

    def book(self, histograms: Any) -> None:
        self.note("book")

    def begin_run(self, run: RunInfo) -> None:
        self.note(f"begin_run {run.number} {run.is_mc}")

    def conditions_changed(self, interval: Interval, conditions: Any) -> None:
        self.note(f"conditions_changed {conditions['Gain']['gain'][0]}")

    def end_run(self, run: RunInfo) -> None:
        self.note(f"end_run {run.number}")


def gains(*edges: tuple[int, int, float]) -> Snapshot:
    payloads = [toy.gain_payload(gain) for _, _, gain in edges]
    pieces = [
        ("Gain", Interval.sections("A", 7, a, b), p.id) for (a, b, _), p in zip(edges, payloads, strict=True)
    ]
    return Snapshot("g", pieces, {p.id: p for p in payloads})


def test_hooks_are_called_in_order_and_conditions_only_where_they_change(lab: Lab) -> None:
    hooks = Hooks()
    snapshot = gains((0, 3, 1.0), (4, 5, 1.0), (6, 9, 2.0), (10, 99, 1.0))
    path = Path("hooks", "event", [hooks])
    lab.run(
        path,
        snapshot=snapshot,
        run_info=lambda n: RunInfo("A", n, True),
        interval=Interval.sections("A", 7, 0, 99),
    )
    assert hooks.calls == [
        "book",
        "begin_run 7 True",
        *(f"conditions_changed {gain}" for gain in (1.0, 2.0, 1.0)),
        "end_run 7",
    ]


@pytest.mark.parametrize("hook", ["book", "begin_run", "conditions_changed", "end_run"])
def test_an_exception_in_a_hook_blames_the_module_and_no_event(lab: Lab, hook: str) -> None:
    for workers in (1, 2):
        with pytest.raises(ModuleError, match=rf"module Hooks failed in {hook}: RuntimeError: no such table"):
            lab.run(Path("h", "event", [Hooks(hook)]), snapshot=gains((0, 2**32 - 1, 1.0)), workers=workers)


def test_missing_conditions_are_refused_before_the_first_event(lab: Lab) -> None:
    path = Path("h", "event", [Hooks()])
    with pytest.raises(ConditionsError, match="Gain are read and there are none"):
        lab.run(path)
    with pytest.raises(NotCoveredError):
        lab.run(path, snapshot=gains((0, 5, 1.0)))
    with pytest.raises(UnknownNameError, match="Gain"):
        lab.run(path, snapshot=Snapshot("g", [], {}))


# --- readers and files


class LyingReader(toy.ToyReader):
    lie = ""

    def read(self, record: str, positions: Any, banks: Any = None) -> Batch:
        batch = super().read(record, positions, banks)
        if self.lie == "short":
            return batch.cut(0, batch.n - 1)
        if self.lie == "order":
            return batch.take(np.arange(batch.n) != 3)
        if self.lie == "bank":
            return batch.only([])
        raise KeyError("basket 7")


@pytest.mark.parametrize(
    ("lie", "message"),
    [
        ("short", "gives other event records than its index says"),
        ("order", "gives other event records than its index says"),
        ("bank", "gives no bank 'Header'"),
        # Which of two workers fails first is their affair; the batch is named either way.
        ("raise", r"cannot read event A:7:\d+:\d+ to A:7:\d+:\d+: KeyError: 'basket 7'"),
    ],
)
def test_a_reader_that_fails_is_a_failure_of_the_input_not_of_an_event(
    lab: Lab, lie: str, message: str
) -> None:
    for workers in (1, 2):
        reader = LyingReader(lab.raw, "A", 7)
        reader.lie = lie
        with pytest.raises(FormatError, match=message):
            lab.run(toy.events_path(), reader=reader, workers=workers)


class AheadReader(toy.ToyReader):
    reads_ahead = True
    fails_from = 10**9

    def read(self, record: str, positions: Any, banks: Any = None) -> Batch:
        if positions[0] >= self.fails_from:
            raise KeyError("basket 7")
        return super().read(record, positions, banks)


def test_reading_ahead_changes_nothing_and_leaves_no_thread(lab: Lab) -> None:
    for make in (toy.events_path, lambda: toy.events_path(toy.Trouble()), toy.bursts_path):
        expected = lab.everything(make(), batch_events=30)
        for isolated in (False, True):
            reader = AheadReader(lab.raw, "A", 7)
            assert lab.everything(make(), reader=reader, batch_events=30, isolated=isolated) == expected
    assert [thread.name for thread in threading.enumerate() if "read-ahead" in thread.name] == []


def test_what_fails_ahead_is_told_of_the_batch_that_it_is_in(lab: Lab) -> None:
    reader = AheadReader(lab.raw, "A", 7)
    reader.fails_from = 120
    with pytest.raises(FormatError, match="cannot read event A:7:5:0 to A:7:6:9: KeyError: 'basket 7'"):
        lab.run(toy.events_path(), reader=reader)
    assert [thread.name for thread in threading.enumerate() if "read-ahead" in thread.name] == []


def test_an_unknown_kind_of_record_or_stream_is_refused(lab: Lab) -> None:
    with pytest.raises(UnknownNameError, match="evnt"):
        lab.run(Path("p", "evnt", []))
    with pytest.raises(UnknownNameError, match="dts"):
        lab.run(toy.events_path(), outputs={"dts": lab.folder / "x.root"})
    with pytest.raises(UsageError, match="no lineage"):
        lab.run(toy.events_path(), lineage=None)


def test_files_whose_bank_was_declared_otherwise_are_refused(lab: Lab) -> None:
    _, files = lab.run(toy.events_path())
    wider = Bank.from_document("Sum", {"rows": "one", "columns": {"energy": {"type": "f8"}}})
    banks = BankSet([wider, *(bank for name, bank in toy.BANKS.items() if name != "Sum")])
    path = Path("again", "event", [], [Output("o", ["Sum"])])
    with CollectionReader([files["dst"]]) as reader:
        with pytest.raises(SchemaMismatchError, match="bank Sum.*column energy: type changed, f4 to f8"):
            lab.run(path, reader=reader, banks=banks)


def test_streams_of_created_records_are_read_again_with_their_parents(lab: Lab) -> None:
    _, files = lab.run(toy.bursts_path())
    path = Path("again", "burst", [toy.Grade()], [Output("o", ["Graded"], select="early")])
    with CollectionReader([files["burst"]]) as reader:
        result, again = lab.run(path, reader=reader, workers=2)
    with CollectionReader([again["o"]]) as reader, CollectionReader([files["early"]]) as early:
        n = line(result, "o", "burst")["written"]
        one, two = reader.read("burst", np.arange(n)), early.read("burst", np.arange(n))
    assert np.array_equal(one.parent_event, two.parent_event)  # type: ignore[arg-type]
    assert np.array_equal(one["Graded"].grade, two["Graded"].grade)


# --- processes


def test_live_threads_and_open_connections_are_named_before_forking(lab: Lab) -> None:
    event = threading.Event()
    thread = threading.Thread(target=event.wait, name="poller")
    thread.start()
    try:
        with pytest.raises(ModuleError, match="while these threads live: poller"):
            lab.run(toy.events_path(), workers=2)
    finally:
        event.set()
        thread.join()
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
        with pytest.raises(ModuleError, match="while these connections are open: .*127.0.0.1"):
            lab.run(toy.events_path(), workers=2)


def test_workers_killed_while_idle_are_replaced_and_missed_by_nobody(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = lab.everything(toy.events_path())
    killed = []
    submit, finish = WorkerPool.submit, WorkerPool.finish

    def kill_idle(pool: Any) -> None:
        for worker in pool._workers:
            if worker.task is None and len(killed) < 5:
                os.kill(worker.pid, signal.SIGKILL)
                killed.append(worker.pid)

    def submitting(pool: Any, task: Any) -> None:
        submit(pool, task)
        kill_idle(pool)

    def finishing(pool: Any) -> Any:
        killed.clear()
        kill_idle(pool)
        return finish(pool)

    monkeypatch.setattr(WorkerPool, "submit", submitting)
    monkeypatch.setattr(WorkerPool, "finish", finishing)
    assert lab.everything(toy.events_path(), workers=3) == expected
    assert len(killed) == 3


def test_no_process_is_left_after_a_pass_nor_after_a_failed_one(lab: Lab) -> None:
    lab.run(toy.events_path(), workers=3)
    with pytest.raises(ModuleError):
        lab.run(Path("odd", "event", [Odd(lengthen)], []), workers=3)
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_a_killed_parent_leaves_no_worker(lab: Lab) -> None:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        os.write(writing, b"x")
        lab.run(toy.events_path(toy.Trouble(how="loop")), workers=2)
        os._exit(0)
    os.close(writing)
    assert os.read(reading, 1) == b"x"
    time.sleep(0.3)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    # The workers hold the other end of the pipe: the end of file comes when the last one is gone.
    assert os.read(reading, 1) == b""
    os.close(reading)


def test_progress_is_told_in_order(lab: Lab) -> None:
    seen: list[tuple[int, int]] = []
    lab.run(toy.events_path(), workers=2, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(n, 300) for n in (40, 80, 120, 160, 200, 240, 280, 300)]


def test_statistics_tell_records_and_time_by_module(lab: Lab) -> None:
    path = Path("p", "event", [toy.Plain(), toy.Sum(), When(toy.Shower(), "loud")])
    for workers in (1, 2):
        result, _ = lab.run(path, workers=workers)
        modules = result.statistics["modules"]
        assert modules["Plain"]["records"] == 300 > modules["Shower"]["records"] > 0
        assert all(entry["seconds"] > 0 for entry in modules.values())
