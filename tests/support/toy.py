"""A synthetic experiment: hits of straight tracks, from files whose records are made of their keys alone.

A raw file is JSON: the run, and for each kind of record the list of (section, event), in any order. What a
record holds follows
from its key, so that every test knows the truth. Used as ``support.toy:experiment``.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterable, Mapping
from pathlib import Path as FilePath
from typing import Any, ClassVar, Self

import numpy as np

from beamwright.conditions.payload import Payload
from beamwright.core.errors import FormatError
from beamwright.core.histogram import Axis, HistogramSet
from beamwright.event import generating
from beamwright.event.banks import BankSet
from beamwright.event.batch import Batch, Jagged, Table, offsets_of
from beamwright.event.calibration import Calibration, Decision, Fit
from beamwright.event.keys import Index, key_hash
from beamwright.event.module import Builder, Module, Parameter
from beamwright.event.path import Output, Path, When
from beamwright.event.reader import Reader
from beamwright.production.experiment import Experiment

BANKS = BankSet.load(FilePath(__file__).with_name("toy.toml"))
GAIN = 1.25
"""The truth that the calibration is to find: charge = GAIN x energy + noise."""


def write_raw(
    path: FilePath, series: str, run: int, records: Mapping[str, Iterable[tuple[int, int]]]
) -> FilePath:
    """Write a raw file."""
    document = {
        "series": series,
        "run": run,
        "records": {k: [list(key) for key in v] for k, v in records.items()},
    }
    path.write_text(json.dumps(document))
    return path


def grid(sections: Iterable[int], events: int) -> list[tuple[int, int]]:
    """Return keys: ``events`` in each section, out of order."""
    keys = [(section, event) for section in sections for event in range(events)]
    return keys[1::2] + keys[::2]


def uniform(seeds: Any, salt: int) -> Any:
    """Return numbers between 0 and 1 that follow from the seeds."""
    return (key_hash(0, 0, seeds, salt) >> np.uint64(11)).astype(np.float64) / 2**53


class ToyReader(Reader):
    """Reads raw files; ``event`` records have a Header and Hits, ``slice`` records Pulses, ``monitor``
    records a Header.
    """

    roles = ("raw",)
    BANKS: ClassVar[dict[str, tuple[str, ...]]] = {
        "event": ("Header", "Hit"),
        "slice": ("Pulse",),
        "monitor": ("Header",),
    }

    def __init__(self, path: FilePath, series: str, run: int) -> None:
        self.path, self.series, self.run = path, series, run
        try:
            document = json.loads(path.read_text())
            self._keys = {
                record: np.asarray(keys, np.int64).reshape(-1, 2)
                for record, keys in document["records"].items()
            }
        except (ValueError, KeyError) as error:
            raise FormatError(f"raw file {path} is damaged: {error}", hint="send it again") from error

    @classmethod
    def open(cls, paths: Mapping[str, FilePath], *, series: str, run: int) -> Self:
        return cls(paths["raw"], series, run)

    def records(self) -> tuple[str, ...]:
        return tuple(self._keys)

    def banks(self, record: str) -> tuple[str, ...]:
        return self.BANKS[record]

    def index(self, record: str) -> Index:
        keys = self._keys[record]
        return Index.build(self.run, keys[:, 0], keys[:, 1], name=str(self.path))

    def read(self, record: str, positions: Any, banks: Iterable[str] | None = None) -> Batch:
        index = self.index(record)
        keys = self._keys[record][index.entry[positions]]
        batch = Batch(record, self.series, self.run, keys[:, 0], keys[:, 1], banks=BANKS)
        for name in self.BANKS[record] if banks is None else banks:
            batch[name] = getattr(self, f"_{name.lower()}")(batch)
        return batch

    def _header(self, batch: Batch) -> Table:
        seeds = key_hash(batch.run, batch.section, batch.event)
        return Table.one(
            "Header",
            {"time": batch.section * 1000 + batch.event.astype(np.float64), "energy": 10 * uniform(seeds, 1)},
        )

    def _hit(self, batch: Batch) -> Table:
        seeds = key_hash(batch.run, batch.section, batch.event)
        counts = (seeds % np.uint64(5)).astype(np.int64)
        each = (
            np.repeat(seeds, counts)
            + np.arange(counts.sum(), dtype=np.uint64)
            - np.repeat(offsets_of(counts)[:-1], counts).astype(np.uint64)
        )
        energy = np.repeat(10 * uniform(seeds, 1), counts)
        charge = GAIN * energy + uniform(each, 2) - 0.5
        lengths = (each % np.uint64(3)).astype(np.int64)
        samples = Jagged.from_counts(lengths, np.repeat(each % np.uint64(1000), lengths).astype(np.uint16))
        return Table.from_counts(
            "Hit",
            counts,
            {"channel": (each % np.uint64(7)).astype(np.uint8), "charge": charge, "samples": samples},
        )

    def _pulse(self, batch: Batch) -> Table:
        seeds = key_hash(batch.run, batch.section, batch.event)
        counts = (seeds % np.uint64(9)).astype(np.int64)
        return Table.from_counts("Pulse", counts, {"height": np.repeat(uniform(seeds, 3), counts)})


class Gun(Module):
    """Generates events: two hits each, whose charge shows the gain of their run."""

    reads = ("Gain@conditions",)
    writes = ("Header", "Hit")
    mean = Parameter(5.0, "GeV", "mean energy")
    bad = Parameter(-1, "", "number of the event in each run that cannot be generated")

    def conditions_changed(self, interval: Any, conditions: Any) -> None:
        self.gain = float(conditions["Gain"]["gain"][0])

    def process(self, batch: Batch) -> None:
        if np.any(batch.event.astype(np.int64) == self.bad):
            raise ArithmeticError("no such event can be")
        seeds = batch.seeds()
        energy = self.mean + generating.normal(seeds)
        batch["Header"] = Table.one("Header", {"time": batch.event.astype(np.float64), "energy": energy})
        hits: dict[str, Any] = {
            "channel": np.tile([1, 2], batch.n),
            "charge": np.repeat(self.gain * energy, 2),
        }
        hits["samples"] = Jagged.from_counts(np.zeros(2 * batch.n, np.int64), np.zeros(0, np.uint16))
        batch["Hit"] = Table.from_counts("Hit", np.full(batch.n, 2), hits)


class FreeGun(Gun):
    """Generates events without conditions."""

    reads = ()
    gain = 1.0


class Calibrate(Module):
    """Divides the charge by the gain."""

    reads = ("Hit", "Gain@conditions")
    writes = ("CalHit",)

    def book(self, histograms: HistogramSet) -> None:
        self.spectrum = histograms.book("energy", Axis(50, 0.0, 12.0, "energy [GeV]"))

    def conditions_changed(self, interval: Any, conditions: Any) -> None:
        self.gain = float(conditions["Gain"]["gain"][0])

    def process(self, batch: Batch) -> None:
        hits = batch["Hit"]
        number = np.arange(hits.rows) - hits.offsets[hits.record_index]
        energy = hits.charge / self.gain
        batch["CalHit"] = Table("CalHit", hits.offsets, {"energy": energy, "hit": number})
        batch.fill(self.spectrum, energy)


class Sum(Module):
    """Sums the hits of an event."""

    reads = ("CalHit",)
    writes = ("Sum",)
    threshold = Parameter(5.0, "GeV", "selects events with more energy")

    def process(self, batch: Batch) -> None:
        hits = batch["CalHit"]
        total = np.bincount(hits.record_index, weights=hits.energy, minlength=batch.n)
        batch["Sum"] = Table.one("Sum", {"energy": total, "hits": hits.counts})
        batch.select(total > self.threshold, "loud")


class Plain(Module):
    """Works without conditions: copies the hits' charges."""

    reads = ("Hit",)
    writes = ("CalHit",)

    def book(self, histograms: HistogramSet) -> None:
        self.spectrum = histograms.book("charge", Axis(20, 0.0, 15.0, "charge"))

    def process(self, batch: Batch) -> None:
        hits = batch["Hit"]
        number = np.arange(hits.rows) - hits.offsets[hits.record_index]
        batch["CalHit"] = Table("CalHit", hits.offsets, {"energy": hits.charge, "hit": number})
        batch.fill(self.spectrum, hits.charge)


class Slow(Module):
    """Takes its time over each batch."""

    reads = ()
    seconds = Parameter(0.3, "s", "how long")

    def process(self, batch: Batch) -> None:
        time.sleep(self.seconds)


class Shower(Module):
    """Runs on loud events only."""

    reads = ("CalHit",)
    writes = ("Shower",)

    def process(self, batch: Batch) -> None:
        hits = batch["CalHit"]
        first = hits.energy > 0
        batch["Shower"] = Table.from_counts(
            "Shower", np.bincount(hits.record_index[first], minlength=batch.n), {"energy": hits.energy[first]}
        )


class Split(Builder):
    """Makes a burst of every pair of pulses of a slice."""

    reads = ("Pulse",)
    writes = ("Burst",)
    builds = "burst"

    def book(self, histograms: HistogramSet) -> None:
        self.pulses = histograms.book("pulses", Axis(10, 0.0, 10.0, "pulses"))

    def build(self, batch: Batch) -> Batch:
        counts = batch["Pulse"].counts // 2
        batch.fill(self.pulses, batch["Pulse"].counts)
        parents = np.repeat(np.arange(batch.n), counts)
        number = np.arange(counts.sum()) - offsets_of(counts)[parents]
        created = self.create(batch, parents, batch.event[parents] * 100 + number.astype(np.uint64))
        created["Burst"] = Table.one("Burst", {"number": number})
        return created


class Grade(Module):
    """Works on bursts."""

    reads = ("Burst",)
    writes = ("Graded",)

    def book(self, histograms: HistogramSet) -> None:
        self.numbers = histograms.book("number", Axis(10, 0.0, 10.0, "number"))

    def process(self, batch: Batch) -> None:
        number = batch["Burst"].number
        batch["Graded"] = Table.one("Graded", {"grade": number * 2.5})
        batch.select(number < 3, "early")
        batch.fill(self.numbers, number)


class Trouble(Module):
    """Fails on records of one section and event, in the way asked for."""

    reads = ()
    how = Parameter("raise", "", "raise, exit, kill, segfault, memory, hog, loop, system-exit")
    section = Parameter(3, "", "section of the poisoned record")
    event = Parameter(4, "", "number of the poisoned record")
    once = Parameter("", "", "a file: fail only while it is not there, and make it")

    def process(self, batch: Batch) -> None:
        if not np.any((batch.section == self.section) & (batch.event == self.event)):
            return
        if self.once:
            if FilePath(self.once).exists():
                return
            FilePath(self.once).touch()
        getattr(self, f"_{self.how.replace('-', '_')}")()

    def _raise(self) -> None:
        raise ValueError("this event is poisoned")

    def _exit(self) -> None:
        os._exit(3)

    def _kill(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def _segfault(self) -> None:
        os.kill(os.getpid(), signal.SIGSEGV)

    def _memory(self) -> None:
        raise MemoryError("no more memory")

    def _hog(self) -> None:
        held = []
        while True:
            held.append(np.ones(1 << 20))

    def _loop(self) -> None:
        while True:
            time.sleep(0.001)

    def _system_exit(self) -> None:
        raise SystemExit(4)


class GainFit(Calibration):
    """Finds the gain: the mean charge of a hit over the mean true energy, in sums of whole numbers."""

    tags = ("Gain",)
    record = "event"
    reads = ("Header", "Hit", "Gain@conditions")
    minimum = 20.0
    tolerance = Parameter(0.5, "", "largest change of the gain that is believed")

    def empty(self) -> dict[str, Any]:
        return {"sums": np.zeros(3, np.int64)}

    def collect(self, batch: Batch, conditions: Any) -> dict[str, Any]:
        hits = batch["Hit"]
        energy = batch["Header"].energy[hits.record_index]
        return {"sums": np.array([whole(hits.charge), whole(energy), hits.rows], np.int64)}

    def statistics(self, accumulator: Any) -> float:
        return float(accumulator["sums"][2])

    def fit(self, accumulator: Any, previous: Any) -> Fit:
        charge, energy, _ = accumulator["sums"]
        gain = charge / energy
        before = float(previous["Gain"]["gain"][0]) if "Gain" in previous else float("nan")
        return Fit({"Gain": gain_payload(gain)}, {"gain": gain, "before": before})

    def validate(self, fit: Fit, previous: Any) -> Decision:
        change = abs(fit.figures["gain"] - fit.figures["before"])
        if change > self.tolerance:
            return Decision("reject", f"the gain jumps by {change:.2f}")
        return Decision("accept", f"the gain changes by {change:.3f}")


class MonitorCount(Calibration):
    """Counts monitor records, and joins their times in order."""

    tags = ("Clock",)
    record = "monitor"
    reads = ("Header",)

    def empty(self) -> dict[str, Any]:
        return {"time": np.zeros(0)}

    def collect(self, batch: Batch, conditions: Any) -> dict[str, Any]:
        return {"time": batch["Header"].time}

    def merge(self, first: Any, second: Any) -> dict[str, Any]:
        return {"time": np.concatenate([first["time"], second["time"]])}

    def statistics(self, accumulator: Any) -> float:
        return float(len(accumulator["time"]))

    def fit(self, accumulator: Any, previous: Any) -> Fit:
        return Fit({"Clock": Payload.arrays({"start": accumulator["time"][:1]})})


def whole(values: Any) -> int:
    """Return a sum in millionths, which is exact whatever the order."""
    return int(np.rint(values.astype(np.float64) * 1e6).astype(np.int64).sum())


def gain_payload(gain: float) -> Payload:
    """Return constants of a gain."""
    return Payload.arrays({"gain": np.array([gain])})


def events_path(*extra: Module) -> Path:
    """Events with hits, without conditions."""
    return Path(
        "plain", "event", [Plain(), *extra, Sum(), When(Shower(), "loud")],
        [
            Output("dst", ["Header", "Hit", "CalHit", "Sum", "Shower"], tier="dst"),
            Output("loud", ["Sum", "Shower"], select="loud", tier="skim"),
        ],
    )  # fmt: skip


def calibrated_path() -> Path:
    """Events with hits, calibrated."""
    return Path(
        "reco", "event", [Calibrate(), Sum()],
        [Output("dst", ["Header", "CalHit", "Sum"]), Output("loud", ["Sum"], select="loud", tier="skim")],
    )  # fmt: skip


def bursts_path(*extra: Module) -> Path:
    """Bursts made of slices."""
    return Path(
        "bursts", "slice", [Split(), *extra, Grade()],
        [Output("burst", ["Burst", "Graded"]), Output("early", ["Graded"], select="early", tier="skim"),
         Output("slices", ["Pulse"], record="slice")],
    )  # fmt: skip


experiment = Experiment(
    name="support.toy:experiment",
    distributions=("support.toy",),
    banks=BANKS,
    readers={"toy": ToyReader},
    paths={
        "plain": events_path,
        "reco": calibrated_path,
        "bursts": bursts_path,
        "trouble": lambda: events_path(Trouble()),
        "slow": lambda: Path("slow", "event", [Plain(), Slow()], [Output("dst", ["CalHit"])]),
        "gun": lambda: Path("gun", "event", [Gun()], [Output("mc", ["Header", "Hit"], tier="mc")]),
        "free": lambda: Path("free", "event", [FreeGun()], [Output("mc", ["Header", "Hit"], tier="mc")]),
        "take": lambda: Path("take", "event", [Plain()], [Output("mc", ["Header", "CalHit"], tier="mc")]),
        "again": lambda: Path("again", "event", [], [Output("skim", ["Sum"], tier="skim")]),
    },
    calibrations={"GainFit": GainFit, "MonitorCount": MonitorCount},
)
