"""The three forms of modules: columns, single events, kernels. They differ only in how they are written."""

from __future__ import annotations

import re
import runpy
from pathlib import Path as FilePath
from typing import Any

import numpy as np
import pytest

from beamwright.conditions.snapshot import Snapshot
from beamwright.core.errors import BeamwrightError, ConfigError, ModuleError, UnknownNameError
from beamwright.core.histogram import Axis, HistogramSet
from beamwright.core.lineage import Lineage
from beamwright.core.runs import Interval
from beamwright.event import kernel as kernel_module
from beamwright.event.banks import BankSet
from beamwright.event.batch import Batch, Table
from beamwright.event.kernel import KernelModule, fill
from beamwright.event.loop import Limits, run_path
from beamwright.event.module import Parameter
from beamwright.event.path import Output, Path, When
from beamwright.event.perevent import Event, EventModule
from beamwright.event.store import CollectionReader, StreamWriter
from support import toy

pytest.importorskip("numba", reason="the extra `numba` is not installed")
pytestmark = pytest.mark.forks

RUN = Interval.sections("A", 7)
ENERGY = Axis(50, 0.0, 12.0, "energy [GeV]")


class EventCalibrate(EventModule):
    """toy.Calibrate, event by event."""

    reads = ("Hit", "Gain@conditions")
    writes = ("CalHit",)

    def book(self, histograms: HistogramSet) -> None:
        self.spectrum = histograms.book("energy", ENERGY)

    def conditions_changed(self, interval: Any, conditions: Any) -> None:
        self.gain = float(conditions["Gain"]["gain"][0])

    def event(self, event: Event) -> None:
        for number, hit in enumerate(event.Hit):
            energy = np.float32(hit.charge) / np.float32(self.gain)
            assert event.add("CalHit", energy=energy, hit=number) == number
            event.fill(self.spectrum, energy)


class EventSum(EventModule):
    """toy.Sum, event by event."""

    reads = ("CalHit",)
    writes = ("Sum",)
    selects = ("loud",)
    threshold = Parameter(5.0, "GeV", "selects events with more energy")

    def event(self, event: Event) -> None:
        total = sum(hit.energy for hit in event.CalHit)
        event.add("Sum", energy=total, hits=len(event.CalHit))
        if total > self.threshold:
            event.select("loud")


class EventShower(EventModule):
    """toy.Shower, event by event."""

    reads = ("CalHit",)
    writes = ("Shower",)

    def event(self, event: Event) -> None:
        for hit in event["CalHit"]:
            if hit.energy > 0:
                event.add("Shower", energy=hit.energy)


class KernelCalibrate(KernelModule):
    """toy.Calibrate as a kernel."""

    reads = ("Hit", "Gain@conditions")
    writes = ("CalHit",)

    def book(self, histograms: HistogramSet) -> None:
        self.spectrum = histograms.book("energy", ENERGY)

    def conditions_changed(self, interval: Any, conditions: Any) -> None:
        self.gain = np.float32(conditions["Gain"]["gain"][0])

    def capacity(self, batch: Batch, bank: str) -> int:
        return int(batch["Hit"].rows)

    @staticmethod
    def kernel(n: Any, Hit: Any, Hit_charge: Any, CalHit: Any, CalHit_energy: Any, CalHit_hit: Any,
               gain: Any, spectrum: Any) -> None:  # fmt: skip
        for i in range(n):
            for row in range(Hit[i], Hit[i + 1]):
                CalHit_energy[row] = Hit_charge[row] / gain
                CalHit_hit[row] = row - Hit[i]
                fill(spectrum, CalHit_energy[row])
            CalHit[i + 1] = Hit[i + 1]


class KernelSum(KernelModule):
    """toy.Sum as a kernel."""

    reads = ("CalHit",)
    writes = ("Sum",)
    selects = ("loud",)
    threshold = Parameter(5.0, "GeV", "selects events with more energy")

    @staticmethod
    def kernel(n: Any, CalHit: Any, CalHit_energy: Any, Sum_energy: Any, Sum_hits: Any, loud: Any,
               threshold: Any) -> None:  # fmt: skip
        for i in range(n):
            total = 0.0
            for row in range(CalHit[i], CalHit[i + 1]):
                total += CalHit_energy[row]
            Sum_energy[i] = total
            Sum_hits[i] = CalHit[i + 1] - CalHit[i]
            loud[i] = total > threshold


class KernelShower(KernelModule):
    """toy.Shower as a kernel: fewer rows than it reads."""

    reads = ("CalHit",)
    writes = ("Shower",)

    def capacity(self, batch: Batch, bank: str) -> int:
        return int(batch["CalHit"].rows)

    @staticmethod
    def kernel(n: Any, CalHit: Any, CalHit_energy: Any, Shower: Any, Shower_energy: Any) -> None:
        used = 0
        for i in range(n):
            for row in range(CalHit[i], CalHit[i + 1]):
                if CalHit_energy[row] > 0:
                    Shower_energy[used] = CalHit_energy[row]
                    used += 1
            Shower[i + 1] = used


FORMS = {
    "columns": (toy.Calibrate, toy.Sum, toy.Shower),
    "events": (EventCalibrate, EventSum, EventShower),
    "kernels": (KernelCalibrate, KernelSum, KernelShower),
    "mixed": (KernelCalibrate, EventSum, toy.Shower),
}


def path_of(form: str, *extra: Any) -> Path:
    calibrate, total, shower = (make() for make in FORMS[form])
    outputs = [Output("dst", ["Header", "CalHit", "Sum", "Shower"]), Output("loud", ["Shower"], "loud")]
    return Path("forms", "event", [calibrate, *extra, total, When(shower, "loud")], outputs)


class Lab:
    """Runs paths over one raw file, with two sets of constants."""

    def __init__(self, folder: FilePath) -> None:
        self.folder, self.passes = folder, 0
        self.raw = toy.write_raw(folder / "raw.json", "A", 7, {"event": toy.grid(range(1, 11), 30)})
        payloads = [toy.gain_payload(1.25), toy.gain_payload(1.5)]
        ends = (Interval.sections("A", 7, 0, 4), Interval.sections("A", 7, 5, 2**32 - 1))
        pieces = [("Gain", end, payload.id) for end, payload in zip(ends, payloads, strict=True)]
        self.snapshot = Snapshot("g", pieces, {payload.id: payload for payload in payloads})

    def run(self, path: Path, **options: Any) -> Any:
        self.passes += 1
        files = {o.stream: self.folder / f"{self.passes}-{o.stream}.root" for o in path.outputs}
        given = {
            "banks": toy.BANKS,
            "snapshot": self.snapshot,
            "batch_events": 40,
            "outputs": files,
        } | options
        result = run_path(
            path, toy.ToyReader(self.raw, "A", 7), RUN, **given,
            lineage=lambda stream: Lineage("toy", "p", "s", "path", stream, "dst", "A", "release", "config"),
        )  # fmt: skip
        return result, {stream: file.read_bytes() for stream, file in files.items()}


@pytest.fixture
def lab(tmp_path: FilePath) -> Lab:
    return Lab(tmp_path)


def test_all_forms_write_the_same_bytes_for_any_workers_and_batches(lab: Lab) -> None:
    reference, files = lab.run(path_of("columns"))
    assert reference.histograms["energy"].entries > 0
    for form, workers, batch_events in (
        ("events", 1, 40), ("events", 2, 7), ("events", 3, 1000),
        ("kernels", 1, 40), ("kernels", 2, 7), ("kernels", 3, 1000), ("mixed", 2, 13),
    ):  # fmt: skip
        result, found = lab.run(path_of(form), workers=workers, batch_events=batch_events)
        assert found == files, (form, workers, batch_events)
        assert result.ledger == reference.ledger
        assert result.histograms.to_bytes() == reference.histograms.to_bytes()


@pytest.mark.parametrize("form", FORMS)
def test_every_form_has_its_records_times_and_start_up_in_the_statistics(lab: Lab, form: str) -> None:
    result, _ = lab.run(path_of(form), workers=2)
    modules = result.statistics["modules"]
    names = [make.__name__ for make in FORMS[form]]
    assert list(modules) == names
    assert [modules[name]["records"] for name in names[:2]] == [300, 300]
    assert 0 < modules[names[2]]["records"] < 300
    assert all(entry["seconds"] > 0 and entry["start_up_seconds"] > 0 for entry in modules.values())


class EventPoison(EventModule):
    reads = ("Header",)

    def event(self, event: Event) -> None:
        if (event.key.section, event.key.event) == (3, 4):
            raise ValueError("this event is poisoned")


class KernelPoison(KernelModule):
    reads = ("Hit",)

    def prepare(self, banks: Any) -> None:
        self.none = np.zeros(0)
        super().prepare(banks)

    def process(self, batch: Batch) -> None:
        self.poisoned = int(np.any((batch.section == 3) & (batch.event == 4)))
        super().process(batch)

    poisoned = 0

    @staticmethod
    def kernel(n: Any, Hit: Any, none: Any, poisoned: Any) -> None:
        if poisoned:
            none[n + 4] = 1.0


@pytest.mark.parametrize(
    ("make", "error", "place"),
    [
        (EventPoison, "ValueError: this event is poisoned", "test_module_forms.py"),
        (KernelPoison, "IndexError: index is out of bounds", ""),
    ],
)
@pytest.mark.parametrize("workers", [1, 2])
def test_a_poisoned_event_of_any_form_loses_only_itself(
    lab: Lab, make: Any, error: str, place: str, workers: int
) -> None:
    result, _ = lab.run(path_of("mixed", make()), workers=workers)
    (found,) = result.quarantined
    assert (found["key"], found["module"], found["error"]) == ("A:7:3:4", make.__name__, error)
    assert place in found["traceback"]


# --- single events


class Odd(EventModule):
    """Does to every event what a test wants."""

    reads = ("Header", "Hit")
    writes = ("CalHit",)
    selects = ("odd",)
    work: Any = staticmethod(lambda event: None)

    def event(self, event: Event) -> None:
        type(self).work(event)


def odd(work: Any) -> Path:
    kind = type("Odd", (Odd,), {"work": staticmethod(work)})
    return Path("odd", "event", [kind()], [])


@pytest.mark.parametrize(
    ("work", "message"),
    [
        (lambda event: event.Sum, "module Odd reads bank 'Sum', which it does not declare"),
        (lambda event: event.Header.tyme, "no column of bank Header is called 'tyme'"),
        (lambda event: event.add("Sum", energy=1.0, hits=1), "writes bank 'Sum', which it does not declare"),
        (lambda event: event.add("CalHit", energy=1.0), r"CalHit of event A:7:1:0 lacks its column 'hit'"),
        (lambda event: event.add("CalHit", energi=1.0), "no column of bank CalHit is called 'energi'"),
        (lambda event: event.add("CalHit", energy=1.0, hit=0.5), "float64 values, declared int32"),
        (lambda event: event.select("od"), "no selection made by module Odd is called 'od'"),
    ],
)
def test_an_event_module_that_breaks_its_contract_is_told_how(lab: Lab, work: Any, message: str) -> None:
    with pytest.raises((ModuleError, UnknownNameError), match=message) as caught:
        lab.run(odd(work))
    assert caught.value.hint


def test_a_bank_with_one_row_needs_exactly_one_from_every_event(lab: Lab) -> None:
    class Twice(EventModule):
        writes = ("Sum",)

        def event(self, event: Event) -> None:
            for _ in range(1 + (event.key.event == 3)):
                event.add("Sum", energy=1.0, hits=1)

    with pytest.raises(ModuleError, match="event A:7:1:3 has 2 rows of bank Sum, which has one per event"):
        lab.run(Path("p", "event", [Twice()], []))


def test_an_event_that_is_kept_is_of_no_use_later(lab: Lab) -> None:
    class Keeps(EventModule):
        writes = ("CalHit",)
        kept: Any = None

        def event(self, event: Event) -> None:
            self.kept = self.kept or event
            event.add("CalHit", energy=1.0, hit=0)
            self.kept.add("CalHit", energy=1.0, hit=0)

    with pytest.raises(ModuleError, match="is added to event A:7:1:0 after it is done"):
        lab.run(Path("p", "event", [Keeps()], []))


def test_events_show_rows_lists_keys_seeds_and_selections(lab: Lab) -> None:
    seen = []

    class Look(EventModule):
        reads = ("Header", "Hit")

        def event(self, event: Event) -> None:
            hits = [(hit.channel, hit.charge, hit.samples.tolist()) for hit in event.Hit]
            seen.append((str(event.key), event.seed, event.Header.time, hits, event.selected("loud")))

    path = Path("look", "event", [toy.Plain(), toy.Sum(), Look()], [])
    lab.run(path, seed=3, workers=1)
    reader = toy.ToyReader(lab.raw, "A", 7)
    batch = reader.read("event", np.arange(300))
    batch.seed = 3
    hits = batch["Hit"]
    for i, (key, seed, time, rows, loud) in enumerate(seen):
        part = slice(hits.offsets[i], hits.offsets[i + 1])
        assert (key, seed, time) == (str(batch.key(i)), batch.seeds()[i], batch["Header"].time[i])
        assert [row[:2] for row in rows] == list(
            zip(hits.channel[part].tolist(), hits.charge[part].tolist(), strict=True)
        )
        assert [row[2] for row in rows] == [hits.samples[row].tolist() for row in range(*part.indices(10**6))]
        assert loud == (hits.charge[part].sum(dtype="f8") > 5.0)
    assert len(seen) == 300


def test_event_modules_see_what_a_module_of_columns_did_between_them(lab: Lab) -> None:
    counts = []

    class Count(EventModule):
        reads = ("CalHit",)

        def event(self, event: Event) -> None:
            counts.append(len(event.CalHit))

    class Drop(toy.Module):
        reads = ("CalHit",)
        writes = ("CalHit",)

        def process(self, batch: Batch) -> None:
            batch["CalHit"].filter(batch["CalHit"].energy < -9, batch)

    lab.run(Path("p", "event", [toy.Plain(), Count(), Drop(), Count()], []), batch_events=300)
    assert sum(counts[:300]) > 0 == sum(counts[300:])


# --- kernels


def kernel_of(function: Any, **members: Any) -> Path:
    made = type("Kern", (KernelModule,), {"kernel": staticmethod(function), "reads": ("Hit",), **members})
    return Path("k", "event", [made()], [])


def bad_rows(n, CalHit, CalHit_energy, CalHit_hit):  # type: ignore[no-untyped-def]
    CalHit[n] = 10 * n + 1


def wrong_column(n, Hit_charg):  # type: ignore[no-untyped-def]
    pass


def unknown(n, charges):  # type: ignore[no-untyped-def]
    pass


def not_all(n, CalHit, CalHit_energy):  # type: ignore[no-untyped-def]
    pass


def unknown_to_numba(n, Hit):  # type: ignore[no-untyped-def]
    memoryview(n)


def nothing(n):  # type: ignore[no-untyped-def]
    pass


@pytest.mark.parametrize(
    ("function", "members", "kind", "message"),
    [
        (
            bad_rows,
            {"writes": ("CalHit",)},
            ModuleError,
            "wrote 401 rows of bank CalHit, and has room for 40",
        ),
        (wrong_column, {}, UnknownNameError, "argument of kernel Kern is called 'Hit_charg'"),
        (unknown, {}, ModuleError, "takes 'charges', and the module has no such attribute"),
        (not_all, {"writes": ("CalHit",)}, ConfigError, "writes bank CalHit and does not take CalHit_hit"),
        (nothing, {"selects": ("x",)}, ConfigError, "does not take its selection 'x'"),
        (nothing, {"writes": ("Hit",)}, ConfigError, "bank Hit, whose column samples holds lists"),
        (unknown_to_numba, {}, ModuleError, "the kernel of module Kern cannot be compiled"),
    ],
)
def test_a_kernel_that_breaks_its_contract_is_told_how(
    lab: Lab, function: Any, members: Any, kind: type[BeamwrightError], message: str
) -> None:
    with pytest.raises(kind, match=message) as caught:
        lab.run(kernel_of(function, **members))
    assert caught.value.hint


def test_a_kernel_without_numba_is_refused_before_the_first_event(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel_module, "numba", None)
    with pytest.raises(ConfigError, match="is a kernel, and numba is not installed") as caught:
        lab.run(kernel_of(nothing))
    assert "beamwright[numba]" in caught.value.hint


def test_a_kernel_counts_in_the_bins_of_a_module_of_columns() -> None:
    axis = Axis(7, -1.0, 2.5)
    rng = np.random.default_rng(1)
    edges = axis.edges()
    near = [edges, np.nextafter(edges, -9), np.nextafter(edges, 9), [np.nan, np.inf, -np.inf, 1e300]]
    values = np.concatenate([rng.normal(0, 2, 5000), *near])
    histograms = HistogramSet()
    histograms.book("h", axis).fill(values)
    counts = kernel_module.Counts(np.zeros(9, np.int64), axis.low, axis.bins / (axis.high - axis.low))
    for value in values:
        fill(counts, value)
    assert np.array_equal(counts.counts, histograms["h"].counts)


def test_lists_are_read_by_a_kernel_through_their_offsets(lab: Lab) -> None:
    def samples(n, Hit, Hit_samples, Hit_samples_offsets, Sum_energy, Sum_hits):  # type: ignore[no-untyped-def]
        for i in range(n):
            for row in range(Hit[i], Hit[i + 1]):
                for at in range(Hit_samples_offsets[row], Hit_samples_offsets[row + 1]):
                    Sum_energy[i] += Hit_samples[at]
                    Sum_hits[i] += 1

    made = type(
        "S", (KernelModule,), {"kernel": staticmethod(samples), "reads": ("Hit",), "writes": ("Sum",)}
    )
    seen: list[Table] = []

    class Look(toy.Module):
        reads = ("Hit", "Sum")

        def process(self, batch: Batch) -> None:
            seen.append(batch["Sum"])
            assert batch["Sum"].hits.sum() == len(batch["Hit"].samples.values)
            assert batch["Sum"].energy.sum() == batch["Hit"].samples.values.sum(dtype="f8")

    lab.run(Path("k", "event", [made(), Look()], []), limits=Limits(quarantined=0))
    assert sum(table.records for table in seen) == 300


# --- the guide


def test_the_modules_of_the_guide_give_the_same(tmp_path: FilePath) -> None:
    page = FilePath(__file__).resolve().parents[2] / "docs" / "how-to" / "write-modules.md"
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    guide = tmp_path / "guide.py"
    guide.write_text("\n".join(blocks), encoding="utf-8")
    defined = runpy.run_path(str(guide))
    columns = {"columns": {"energy": {"type": "f4"}}}
    banks = BankSet.from_document({"Hit": columns, "Sum": columns | {"rows": "one"}})
    rng = np.random.default_rng(1)
    counts = rng.poisson(2, 200)
    batch = Batch("event", "A", 7, np.zeros(200), np.arange(200), banks=banks)
    batch["Hit"] = Table.from_counts("Hit", counts, {"energy": rng.exponential(2, counts.sum())})
    lineage = Lineage("toy", "p", "s", "path", "dst", "dst", "A", "release", "config")
    with StreamWriter(tmp_path / "in.root", "dst", banks.subset(["Hit"]), lineage) as writer:
        writer.write(batch)
        writer.close()
    found = set()
    for name in ("SumColumns", "SumEvents", "SumKernel"):
        path = Path("guide", "event", [defined[name](threshold=4.0)], [Output("o", ["Sum"], "loud")])
        with CollectionReader([tmp_path / "in.root"]) as reader:
            run_path(
                path, reader, RUN, banks=banks, outputs={"o": tmp_path / f"{name}.root"},
                lineage=lambda stream: lineage, batch_events=64,
            )  # fmt: skip
        found.add((tmp_path / f"{name}.root").read_bytes())
    assert len(found) == 1
    with CollectionReader([tmp_path / "SumKernel.root"]) as reader:
        assert 0 < len(reader) < 200
