"""Read the online files of the telescope: triggered events, summary slices and time slices.

The headers and hits have custom streamers, so each branch is taken as bytes and viewed with the record
layouts below. Times are `tdc` (ns within the frame of 100 ms) and `tot` (time over threshold, ns).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from orca.errors import RawDataError
from orca.jagged import Array, Ints, Table, concatenate, native, offsets_of

EVENT, SUMMARY, L1, SN = "event", "summary", "l1", "sn"
TREES = {
    EVENT: "KM3NET_EVENT",
    SUMMARY: "KM3NET_SUMMARYSLICE",
    L1: "KM3NET_TIMESLICE_L1",
    SN: "KM3NET_TIMESLICE_SN",
}
FRAME_NS = 100_000_000
"""Length of one frame (time slice)."""
TRIGGER_BITS = {"3DShower": 1, "MXShower": 2, "3DMuon": 4, "NB": 5}

_SLICE_HEADER = [
    ("bc0", ">u4"), ("v0", ">u2"), ("bc1", ">u4"), ("v1", ">u2"), ("bc2", ">u4"), ("v2", ">u2"),
    ("detector", ">i4"), ("run", ">i4"), ("frame", ">i4"),
    ("bc3", ">u4"), ("v3", ">u2"), ("utc_s", ">u4"), ("utc_16ns", ">u4"),
]  # fmt: skip
SLICE_HEADER = np.dtype(_SLICE_HEADER)
_EVENT_PART = [
    ("bc4", ">u4"), ("v4", ">u2"), ("trigger_counter", ">u8"),
    ("bc5", ">u4"), ("v5", ">u2"), ("trigger_mask", ">u8"), ("overlays", ">u4"),
]  # fmt: skip
EVENT_HEADER = np.dtype([*_SLICE_HEADER, *_EVENT_PART])
_HIT = [("dom_id", ">i4"), ("channel", "u1"), ("tdc", "<u4"), ("tot", "u1")]
SNAPSHOT_HIT = np.dtype(_HIT)
TRIGGERED_HIT = np.dtype([*_HIT, ("bc", ">u4"), ("v", ">u2"), ("trigger_mask", ">u8")])
SLICE_HIT = np.dtype(_HIT[1:])
_WORDS = ("dq", "hrv", "fifo", "status3", "status4")
SUMMARY_FRAME = np.dtype([("dom_id", ">i4"), *((name, ">u4") for name in _WORDS), ("rate", "u1", (31,))])
_FRAMES = "vector<KM3NETDAQ::JDAQSuperFrame>"
_HEADER_KEYS = ("detector", "run", "frame", "utc_s", "utc_16ns")


@dataclass(frozen=True)
class KeyIndex:
    """Keys of all records of one kind in one file, in key order; `entry` is the row in the tree."""

    kind: str
    run: Ints
    section: Ints
    event: Ints
    entry: Ints

    def __len__(self) -> int:
        return len(self.entry)


@dataclass(frozen=True)
class Events:
    """Triggered events: one header row per event, its triggered and its snapshot hits."""

    header: dict[str, Array]
    triggered: Table
    snapshot: Table


@dataclass(frozen=True)
class Slices:
    """Slices of a run: one header row each and its rows (hits or summary frames)."""

    header: dict[str, Array]
    rows: Table


class OnlineFile:
    """One online file, opened for reading; close it or use it in a `with` block."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._file = open_root(self.path)

    def __enter__(self) -> OnlineFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()

    def kinds(self) -> tuple[str, ...]:
        """Tell which kinds of record the file holds."""
        return tuple(kind for kind in TREES if self.count(kind))

    def count(self, kind: str) -> int:
        """Count the records of one kind."""
        name = TREES[kind]
        return int(self._file[name].num_entries) if name in self._file else 0

    def keys(self, kind: str) -> KeyIndex:
        """Index the records of one kind by (run, section = frame, event), from headers alone."""
        header = self._headers(kind)
        event = header.get("trigger_counter", np.zeros(len(header["run"]), np.int64)).astype(np.int64)
        run, section = header["run"].astype(np.int64), header["frame"].astype(np.int64)
        order = np.lexsort((event, section, run))
        return KeyIndex(kind, run[order], section[order], event[order], order)

    def events(self, entries: Array | None = None) -> Events:
        """Read triggered events; mask bit 31, set in simulation only, is cleared."""
        chosen = self._chosen(EVENT, entries)
        header = {name: values[chosen] for name, values in self._headers(EVENT).items()}
        triggered = self._rows(EVENT, "triggeredHits", TRIGGERED_HIT, 10).take(chosen)
        snapshot = self._rows(EVENT, "snapshotHits", SNAPSHOT_HIT, 10).take(chosen)
        return Events(header, triggered, snapshot)

    def summaries(self, entries: Array | None = None) -> Slices:
        """Read summary slices: one row per DOM and slice, with 31 rate bytes."""
        chosen = self._chosen(SUMMARY, entries)
        rows = self._rows(SUMMARY, "vector<KM3NETDAQ::JDAQSummaryFrame>", SUMMARY_FRAME, 10)
        header = {name: values[chosen] for name, values in self._headers(SUMMARY).items()}
        return Slices(header, rows.take(chosen))

    def slices(self, kind: str, entries: Array | None = None) -> Slices:
        """Read L1 or SN time slices, whichever way they were written: hits with their DOM."""
        chosen = self._chosen(kind, entries)
        tree = self._tree(kind)
        read = _split_hits if f"{_FRAMES}.buffer" in _branches(tree) else _memberwise_hits
        header = {name: values[chosen] for name, values in self._headers(kind).items()}
        return Slices(header, read(self.path, tree, chosen))

    def _tree(self, kind: str) -> Any:
        name = TREES[kind]
        if not self.count(kind):
            found = ", ".join(TREES[k] for k in self.kinds()) or "no record at all"
            raise RawDataError(self.path, f"no {name} in it, only {found}", "Give a file that holds them")
        return self._file[name]

    def _chosen(self, kind: str, entries: Array | None) -> Ints:
        n = self.count(kind)
        chosen = np.arange(n) if entries is None else np.asarray(entries, np.int64)
        if len(chosen) and (chosen.min() < 0 or chosen.max() >= n):
            raise RawDataError(self.path, f"entry {chosen.max()} asked for, {n} there", "Index the file anew")
        return chosen

    def _headers(self, kind: str) -> dict[str, Array]:
        tree = self._tree(kind)
        if kind in (L1, SN):
            return _slice_headers(tree)
        layout = EVENT_HEADER if kind == EVENT else SLICE_HEADER
        branch = "KM3NETDAQ::JDAQEventHeader" if kind == EVENT else "KM3NETDAQ::JDAQSummarysliceHeader"
        table = self._rows(kind, branch, layout, 0)
        names = [*_HEADER_KEYS, *(("trigger_counter", "trigger_mask", "overlays") if kind == EVENT else ())]
        header = {name: table[name] for name in names}
        if kind == EVENT:
            header["trigger_mask"] = header["trigger_mask"] & np.uint64(0x7FFFFFFF)
        return header

    def _rows(self, kind: str, branch: str, layout: np.dtype[Any], prefix: int) -> Table:
        data, offsets = branch_bytes(self._tree(kind)[branch], prefix)
        sizes = np.diff(offsets)
        if np.any(sizes % layout.itemsize):
            bad = int(np.flatnonzero(sizes % layout.itemsize)[0])
            cause = f"entry {bad} of {branch} has {sizes[bad]} bytes, no multiple of {layout.itemsize}"
            raise RawDataError(self.path, cause, "The file is damaged or of an unknown format version")
        return _table(data.view(layout), offsets // layout.itemsize)


def open_root(path: Path) -> Any:
    """Open a ROOT file, turning a truncated or foreign one into a clear error."""
    if not path.is_file():
        raise RawDataError(path, "no such file", "Check the path in the run's registration")
    try:
        uproot = import_uproot()
        file = uproot.open(path, handler=uproot.source.file.MemmapSource)  # the default starts threads
        file.keys()
    except Exception as error:
        cause = f"not a readable ROOT file ({type(error).__name__})"
        raise RawDataError(path, cause, "Compare its size and checksum; fetch it again") from error
    return file


def branch_bytes(branch: Any, prefix: int = 0) -> tuple[Array, Ints]:
    """Take a branch as bytes: flat u1 and offsets in bytes, with `prefix` bytes cut off each entry."""
    uproot = import_uproot()
    interpretation = uproot.AsJagged(uproot.AsDtype("u1"), header_bytes=prefix)
    try:
        layout = branch.array(interpretation, library="ak").layout.to_ListOffsetArray64(True)
    except Exception as error:
        cause = f"branch {branch.name} is not readable ({type(error).__name__}: {str(error).splitlines()[0]})"
        raise RawDataError(branch.file.file_path, cause, "The file is truncated: fetch it again") from error
    return np.asarray(layout.content.data), np.asarray(layout.offsets.data)


def rate_hz(code: Array) -> Array:
    """Decode the rate byte of a summary frame: 2 kHz · 1000^(v/255), 0 for none."""
    return np.asarray(np.where(code == 0, 0.0, 2000.0 * 1000.0 ** (code / 255.0)))


def packets(dq: Array) -> tuple[Array, Array]:
    """Decode the data-quality word: UDP packets received, and whether none is missing."""
    received = dq & 0x7FFF
    return received, received == (dq >> 16) + 1


def import_uproot() -> Any:
    """Import uproot, late: it costs a second and only readers of foreign files need it."""
    # uproot brings Arrow, whose allocator starts a thread when it is loaded: workers could not fork then
    os.environ.setdefault("JE_ARROW_MALLOC_CONF", "background_thread:false")
    import uproot

    return uproot


def _table(records: Array, offsets: Ints) -> Table:
    names = [name for name in records.dtype.names or () if not re.fullmatch(r"(bc|v)\d?", name)]
    return Table({name: native(records[name]) for name in names}, offsets)


def _branches(tree: Any) -> dict[str, Any]:
    return {branch.name: branch for _, branch in tree.iteritems(recursive=True)}


def _slice_headers(tree: Any) -> dict[str, Array]:
    branches = _branches(tree)
    plain = {"detector": "detector_id", "run": "run", "frame": "frame_index"}
    header = {key: native(branches[name].array(library="np")) for key, name in plain.items()}
    if "timeslice_start" in branches:
        start = branches["timeslice_start"].array(library="ak")
        seconds, cycles = (start[name].to_numpy() for name in ("UTC_seconds", "UTC_16nanosecondcycles"))
    else:
        names = ("timeslice_start.UTC_seconds", "timeslice_start.UTC_16nanosecondcycles")
        seconds, cycles = (branches[name].array(library="np") for name in names)
    return {**header, "utc_s": native(seconds), "utc_16ns": native(cycles)}


def _split_hits(path: Path, tree: Any, chosen: Ints) -> Table:
    """Read slices written with one branch per member (2019): DOM ids, hit counts and hits."""
    branches = _branches(tree)
    member = {name: branches[f"{_FRAMES}.{name}"] for name in ("id", "numberOfHits", "buffer")}
    data, offsets = branch_bytes(member["buffer"], 6)
    dom = _flat(member["id"].array(library="ak"))
    hits = _flat(member["numberOfHits"].array(library="ak"))
    counts = offsets_of(hits[0])[hits[1]]
    if not np.array_equal(counts * SLICE_HIT.itemsize, offsets):
        cause = "hit counts and hit bytes of the slices disagree"
        raise RawDataError(path, cause, "The file is damaged: fetch it again")
    table = _table(data.view(SLICE_HIT), counts)
    return _with_dom(table, np.repeat(dom[0], hits[0])).take(chosen)


def _memberwise_hits(path: Path, tree: Any, chosen: Ints) -> Table:
    """Read slices written member by member into one buffer (2025)."""
    data, offsets = branch_bytes(_branches(tree)[_FRAMES])
    if not len(chosen):
        return _with_dom(_table(np.zeros(0, SLICE_HIT), offsets_of(chosen)), np.zeros(0, np.int32))
    return concatenate(_memberwise_slice(path, data[offsets[i] : offsets[i + 1]], i) for i in chosen)


def _memberwise_slice(path: Path, entry: Array, index: int) -> Table:
    n = int(entry[8:12].view(">u4")[0])
    dom = entry[12 + 44 * n : 12 + 48 * n].view(">i4")
    hits = entry[12 + 68 * n : 12 + 72 * n].view(">u4").astype(np.int64)
    body = entry[18 + 72 * n :]
    if len(body) != hits.sum() * SLICE_HIT.itemsize:
        cause = f"slice {index} announces {hits.sum()} hits and has {len(body)} bytes of them"
        raise RawDataError(path, cause, "The file is damaged: fetch it again")
    table = _table(body.view(SLICE_HIT), np.array([0, hits.sum()]))
    return _with_dom(table, np.repeat(dom, hits))


def _with_dom(table: Table, dom: Array) -> Table:
    return Table({"dom_id": native(dom), **table.columns}, table.offsets)


def _flat(array: Any) -> tuple[Array, Ints]:
    layout = array.layout.to_ListOffsetArray64(True)
    return native(np.asarray(layout.content.data)), np.asarray(layout.offsets.data)
