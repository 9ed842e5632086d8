"""Readers of the telescope's files: what the framework sees of raw data, simulation and DST."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Self

import numpy as np

from beamwright.event.banks import BankSet
from beamwright.event.batch import Batch, Jagged, Table
from beamwright.event.keys import Index
from beamwright.event.reader import Positions, Reader
from orca import jagged, raw
from orca.detx import CHANNELS
from orca.errors import RawDataError
from orca.jagged import Array, Ints
from orca.offline import OfflineFile
from orca.raw import Events, OnlineFile

FOLDER = Path(__file__).parent / "banks"
BANKS = BankSet.load(FOLDER / "raw.toml", FOLDER / "reco.toml")

EVENT, SLICE, SUMMARY, SUPERNOVA = "event", "slice", "summary", "sn"
DAQ, TRUTH, DST = "daq", "truth", "dst"
EVENT_BANKS = ("RunHeader", "EventHeader", "TrigHit", "SnapHit", "McTruth", "StoredTrack", "Origin")
SLICE_BANKS = ("RunHeader", "EventHeader", "L1Hit")
SUMMARY_BANKS = ("RunHeader", "EventHeader", "SummaryFrame")
DST_BANKS = ("RunHeader", "EventHeader", "StoredTrack", "HitCounts", "McTruth", "Origin")
_KINDS = {EVENT: raw.EVENT, SLICE: raw.L1, SUMMARY: raw.SUMMARY, SUPERNOVA: raw.SN}
_OWN_ROLE = {SLICE: "l1", SUPERNOVA: "sn"}
_HIT = ("dom_id", "channel", "tdc", "tot")
_AXES = ("dir_x", "dir_y", "dir_z")

Columns = dict[str, Array]
Tables = dict[str, Table]


class TelescopeReader(Reader):
    """What all readers share: one run of one detector, keys in order, batches with declared banks."""

    BANKS_OF: Mapping[str, tuple[str, ...]] = {}

    def __init__(self, series: str, run: int) -> None:
        self.series, self.run = series, run
        self._indices: dict[str, Index] = {}

    @classmethod
    def warm(cls) -> None:
        raw.import_uproot()

    def records(self) -> tuple[str, ...]:
        return tuple(self.BANKS_OF)

    def banks(self, record: str) -> tuple[str, ...]:
        return self.BANKS_OF[record]

    def index(self, record: str) -> Index:
        if record not in self._indices:
            path, keys = self._keys(record)
            mine = keys.run == self.run
            entry = keys.entry[mine]
            built = Index.build(keys.run[mine], keys.section[mine], keys.event[mine], name=str(path))
            self._indices[record] = Index(built.run, built.section, built.event, entry[built.entry])
        return self._indices[record]

    def read(self, record: str, positions: Positions, banks: Iterable[str] | None = None) -> Batch:
        index = self.index(record)
        wanted = self.banks(record) if banks is None else tuple(banks)
        section, event = index.section[positions], index.event[positions]
        tables = self._tables(record, index.entry[positions], frozenset(wanted))
        return Batch(
            record, self.series, self.run, section, event, {n: tables[n] for n in wanted}, banks=BANKS
        )

    @abstractmethod
    def _keys(self, record: str) -> tuple[Path, raw.KeyIndex]:
        """Return the keys of all records of a kind, and the file they are in."""

    @abstractmethod
    def _tables(self, record: str, entries: Ints, wanted: frozenset[str]) -> Tables:
        """Return the banks of the records at these entries of the file."""

    def _check(self, path: Path, header: Mapping[str, Array]) -> None:
        """Refuse a file of another detector: its constants would be wrong."""
        others = sorted({str(d) for d in header["detector"].tolist()} - {self.series})
        if others:
            cause = f"it is of detector {others[0]}, not {self.series}"
            raise RawDataError(path, cause, "Register the file under the series of its detector")


class OnlineReader(TelescopeReader):
    """Triggered events, summary slices and time slices as the detector, or its simulation, writes them.

    The role `daq` holds all of them, unless slices come in files of their own (`l1`, `sn`); `truth` is the
    simulation's file of true muons.
    """

    roles = (DAQ, "l1", "sn", TRUTH)
    BANKS_OF = {EVENT: EVENT_BANKS, SLICE: SLICE_BANKS, SUMMARY: SUMMARY_BANKS, SUPERNOVA: SLICE_BANKS}

    def __init__(self, paths: Mapping[str, Path], series: str, run: int) -> None:
        super().__init__(series, run)
        self._truth = OfflineFile(paths[TRUTH]) if TRUTH in paths else None
        self._files = {role: OnlineFile(path) for role, path in paths.items() if role != TRUTH}
        self._decoded: dict[str, Events | raw.Slices] = {}

    @classmethod
    def open(cls, paths: Mapping[str, Path], *, series: str, run: int) -> Self:
        return cls(paths, series, run)

    def records(self) -> tuple[str, ...]:
        return tuple(record for record in self.BANKS_OF if self._file(record) is not None)

    def close(self) -> None:
        for file in (*self._files.values(), self._truth):
            if file is not None:
                file.close()

    def _file(self, record: str) -> OnlineFile | None:
        file = self._files.get(_OWN_ROLE.get(record, DAQ)) or self._files.get(DAQ)
        return file if file is not None and file.count(_KINDS[record]) else None

    def _keys(self, record: str) -> tuple[Path, raw.KeyIndex]:
        file = self._file(record)
        if file is None:
            empty = np.zeros(0, np.int64)
            return next(iter(self._files.values())).path, raw.KeyIndex(record, empty, empty, empty, empty)
        return file.path, file.keys(_KINDS[record])

    def _all(self, record: str) -> Events | raw.Slices:
        """Decode a kind of record once: a file is small against the work that follows."""
        if record not in self._decoded:
            file = self._file(record)
            assert file is not None, "positions come from an index, which has records"
            self._decoded[record] = _decode(file, record)
            self._check(file.path, self._decoded[record].header)
        return self._decoded[record]

    def _tables(self, record: str, entries: Ints, wanted: frozenset[str]) -> Tables:
        if not len(entries):
            return {name: Table.empty(BANKS[name], 0) for name in self.BANKS_OF[record]}
        found = self._all(record)
        header = {name: values[entries] for name, values in found.header.items()}
        if isinstance(found, Events):
            truth = self._true_muons(header["trigger_counter"]) if "McTruth" in wanted else None
            return event_tables(
                header, found.triggered.take(entries), found.snapshot.take(entries), truth, None
            )
        rows = found.rows.take(entries)
        name = "SummaryFrame" if record == SUMMARY else "L1Hit"
        return {**header_tables(header), name: _frames(rows) if record == SUMMARY else _hits(name, rows)}

    def _true_muons(self, counter: Array) -> Columns | None:
        """Take the truth of simulated events: the trigger counter is the row, if there is such a row."""
        if self._truth is None:
            return None
        row = counter.astype(np.int64)
        there = row < len(self._truth)
        truth = self._truth.truth(row[there])
        return {name: _spread(values, there) for name, values in truth.items()}


class OfflineReader(TelescopeReader):
    """Events with hits and stored tracks, as the collaboration's offline files have them."""

    roles = (DAQ,)
    BANKS_OF = {EVENT: EVENT_BANKS}

    def __init__(self, path: Path, series: str, run: int) -> None:
        super().__init__(series, run)
        self._file = OfflineFile(path)
        self._check(path, self._file.headers())

    @classmethod
    def open(cls, paths: Mapping[str, Path], *, series: str, run: int) -> Self:
        return cls(paths[DAQ], series, run)

    def close(self) -> None:
        self._file.close()

    def _keys(self, record: str) -> tuple[Path, raw.KeyIndex]:
        return self._file.path, self._file.keys(record)

    def _tables(self, record: str, entries: Ints, wanted: frozenset[str]) -> Tables:
        events = self._file.events(entries)
        stored = _stored(self._file, entries) if "StoredTrack" in wanted else None
        return event_tables(events.header, events.triggered, events.snapshot, None, stored)


class DstReader(OfflineReader):
    """Events that the collaboration reconstructed: tracks and hit counts, no hits."""

    roles = (DST,)
    BANKS_OF = {EVENT: DST_BANKS}

    @classmethod
    def open(cls, paths: Mapping[str, Path], *, series: str, run: int) -> Self:
        return cls(paths[DST], series, run)

    def _tables(self, record: str, entries: Ints, wanted: frozenset[str]) -> Tables:
        return {
            **header_tables(self._file.headers(entries)),
            **_track_tables(len(entries), None, _stored(self._file, entries)),
            "HitCounts": Table.one(BANKS["HitCounts"], self._counts(entries)),
        }

    def _counts(self, entries: Ints) -> Columns:
        return {name: values.astype(np.uint32) for name, values in self._file.summary(entries).items()}


def _decode(file: OnlineFile, record: str) -> Events | raw.Slices:
    if record == EVENT:
        return file.events()
    return file.summaries() if record == SUMMARY else file.slices(_KINDS[record])


def _stored(file: OfflineFile, entries: Ints) -> Columns:
    best, info = file.best_tracks(entries), file.fit_info(entries)
    directions = {axis: best[axis] for axis in _AXES}
    return {**directions, "likelihood": best["lik"], "beta0": info["beta0"], "energy": best["E"]}


def event_tables(
    header: Columns,
    triggered: jagged.Table,
    snapshot: jagged.Table,
    truth: Columns | None,
    stored: Columns | None,
) -> Tables:
    trig = _hits(
        "TrigHit", triggered, snap=hit_links(triggered, snapshot), trigger_mask=triggered["trigger_mask"]
    )
    zeros = np.zeros(snapshot.offsets[-1], np.int32)
    return {
        **header_tables(header),
        "TrigHit": trig,
        "SnapHit": _hits("SnapHit", snapshot, header=zeros),
        **_track_tables(len(triggered), truth, stored),
    }


def header_tables(header: Columns) -> Tables:
    n = len(header["run"])
    zeros = np.zeros(n, np.uint64)
    ns = header["utc_ns"] if "utc_ns" in header else header["utc_16ns"].astype(np.int64) * 16
    event: Columns = {
        "utc_s": header["utc_s"].astype(np.uint32),
        "utc_ns": ns.astype(np.uint32),
        "trigger_mask": header.get("trigger_mask", zeros).astype(np.uint64),
        "overlays": header.get("overlays", zeros).astype(np.uint32),
    }
    where: Columns = {name: header[name].astype(np.uint32) for name in ("detector", "run")}
    return {
        "RunHeader": Table.one(BANKS["RunHeader"], where),
        "EventHeader": Table.one(BANKS["EventHeader"], event),
    }


def _track_tables(n: int, truth: Columns | None, stored: Columns | None) -> Tables:
    """Make the banks of true and stored tracks: a row where there is one."""
    renamed = {"E": "energy", "pos_x": "x", "pos_y": "y", "pos_z": "z"}
    true = None if truth is None else {renamed.get(name, name): v for name, v in truth.items()}
    return {
        "McTruth": _rows("McTruth", n, true),
        "StoredTrack": _rows("StoredTrack", n, stored),
        "Origin": Table.empty(BANKS["Origin"], n),
    }


def _rows(bank: str, n: int, columns: Columns | None) -> Table:
    if columns is None:
        return Table.empty(BANKS[bank], n)
    there = ~np.isnan(columns["dir_z"])
    return Table.from_counts(BANKS[bank], there, {name: values[there] for name, values in columns.items()})


def _hits(bank: str, hits: jagged.Table, **more: Array) -> Table:
    return Table(BANKS[bank], hits.offsets, {**{name: hits[name] for name in _HIT}, **more})


def _frames(rows: jagged.Table) -> Table:
    rate = rows["rate"]
    lists = Jagged.from_counts(np.full(len(rate), rate.shape[1]), rate.ravel())
    words = {name: rows[name] for name in ("dom_id", "dq", "hrv", "fifo")}
    return Table(BANKS["SummaryFrame"], rows.offsets, {**words, "rate": lists})


def hit_links(hits: jagged.Table, among: jagged.Table) -> Array:
    """Find each hit's row among others of the same event (same PMT and time), −1 where it is not there."""
    if not among.offsets[-1]:
        return np.full(hits.offsets[-1], -1, np.int32)
    doms = np.unique(np.concatenate([hits["dom_id"], among["dom_id"]]))
    wanted, there = _hit_codes(hits, doms), _hit_codes(among, doms)
    order = np.argsort(there, kind="stable")
    row = order[np.minimum(np.searchsorted(there, wanted, sorter=order), len(order) - 1)]
    return np.where(there[row] == wanted, row - among.offsets[hits.owner], -1).astype(np.int32)


def _hit_codes(hits: jagged.Table, doms: Array) -> Ints:
    code = hits.owner * len(doms) + np.searchsorted(doms, hits["dom_id"])
    return (code * CHANNELS + hits["channel"]) * raw.FRAME_NS + hits["tdc"].astype(np.int64)


def _spread(values: Array, there: Array) -> Array:
    spread = np.full(len(there), np.nan)
    spread[there] = values
    return spread
