"""Read the offline files: events with stored tracks, simulation truth, and DST files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from orca.errors import RawDataError
from orca.jagged import Array, Ints, Table, native
from orca.raw import EVENT, Events, KeyIndex, open_root

DST = "dst"
_MUON = 13
_EVENT_MEMBERS = {
    "detector": "det_id",
    "run": "run_id",
    "frame": "frame_index",
    "trigger_counter": "trigger_counter",
    "trigger_mask": "trigger_mask",
    "overlays": "overlays",
    "utc_s": "t.fSec",
    "utc_ns": "t.fNanoSec",
}
_AXES = ("dir.x", "dir.y", "dir.z", "pos.x", "pos.y", "pos.z")
_SUMMARY = {"hits": "sum_hits/nhits", "trig_hits": "sum_trig_hits/nhits", "trig_doms": "sum_trig_hits/ndoms"}


class OfflineFile:
    """One offline or DST file, opened for reading; close it or use it in a `with` block."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._file = open_root(self.path)
        self._count = int(self._file["E"].num_entries) if "E" in self._file else 0
        if not self._count:
            raise RawDataError(self.path, "no events in a tree E in it", "Give an offline or DST file")

    def __enter__(self) -> OfflineFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()

    def __len__(self) -> int:
        return self._count

    def keys(self, kind: str = EVENT) -> KeyIndex:
        """Index the events by (run, section = frame, event = trigger counter)."""
        names = ("run", "frame", "trigger_counter")
        run, section, event = (self._member(_EVENT_MEMBERS[name]).astype(np.int64) for name in names)
        order = np.lexsort((event, section, run))
        return KeyIndex(kind, run[order], section[order], event[order], order)

    def events(self, entries: Array | None = None) -> Events:
        """Read events with their hits; `hits.t` holds the raw TDC value, the `tdc` member is empty.

        All hits of the event make the snapshot, those with a trigger flag the triggered hits.
        """
        chosen = self._chosen(entries)
        header = self.headers(chosen)
        wanted = {
            "dom_id": "dom_id",
            "channel": "channel_id",
            "tdc": "t",
            "tot": "tot",
            "trigger_mask": "trig",
        }
        hits = self._jagged({name: f"hits.{member}" for name, member in wanted.items()}).take(chosen)
        columns: dict[str, Array] = {
            "dom_id": hits["dom_id"].astype(np.int32),
            **{name: hits[name].astype(np.uint8) for name in ("channel", "tot")},
            "tdc": hits["tdc"].astype(np.uint32),
        }
        snapshot = Table(columns, hits.offsets)
        masked = Table({**columns, "trigger_mask": hits["trigger_mask"].astype(np.uint64)}, hits.offsets)
        return Events(header, masked.where(hits["trigger_mask"] > 0), snapshot)

    def headers(self, entries: Array | None = None) -> dict[str, Array]:
        """Read ids, times and trigger words."""
        chosen = self._chosen(entries)
        return {name: self._member(member)[chosen] for name, member in _EVENT_MEMBERS.items()}

    def best_tracks(self, entries: Array | None = None) -> dict[str, Array]:
        """Read the first, best stored track of each event; NaN where there is none."""
        return self._first("trks", self._chosen(entries), ("lik", "E", "t", *_AXES))

    def fit_info(self, entries: Array | None = None) -> dict[str, Array]:
        """Read β0 (angular uncertainty, rad), hits and energy of each first track; NaN where missing."""
        chosen = self._chosen(entries)
        info = self._branches()["trks.fitinf"].array(library="np")
        first = [np.asarray(event[0]) if len(event) else np.empty(0) for event in info]
        slots = {"beta0": 0, "fit_hits": 3, "fit_energy": 4}
        return {
            name: np.array([f[i] if len(f) > i else np.nan for f in first], np.float64)[chosen]
            for name, i in slots.items()
        }

    def truth(self, entries: Array | None = None) -> dict[str, Array]:
        """Read the true muon of each simulated event: direction, position, energy; NaN without one."""
        chosen = self._chosen(entries)
        tracks = self._jagged({name: f"mc_trks.{name}" for name in ("type", "E", *_AXES)})
        muons = tracks.where(np.abs(tracks["type"]) == _MUON)
        return _first_rows(muons.take(chosen), ("E", *_AXES))

    def summary(self, entries: Array | None = None) -> dict[str, Array]:
        """Read the hit counts of a DST's row-aligned tree T."""
        if "T" not in self._file or self._file["T"].num_entries != len(self):
            cause = "no tree T with one row for each event"
            raise RawDataError(self.path, cause, "Give a DST file")
        chosen = self._chosen(entries)
        tree = self._file["T"]
        return {name: native(tree[path].array(library="np"))[chosen] for name, path in _SUMMARY.items()}

    def _chosen(self, entries: Array | None) -> Ints:
        chosen = np.arange(len(self)) if entries is None else np.asarray(entries, np.int64)
        if len(chosen) and (chosen.min() < 0 or chosen.max() >= len(self)):
            cause = f"entry {chosen.max()} asked for, {len(self)} there"
            raise RawDataError(self.path, cause, "Index the file anew")
        return chosen

    def _branches(self) -> dict[str, Any]:
        return {branch.name: branch for _, branch in self._file["E"].iteritems(recursive=True)}

    def _member(self, name: str) -> Array:
        return native(self._branches()[name].array(library="np"))

    def _jagged(self, members: dict[str, str]) -> Table:
        branches = self._branches()
        arrays = {name: branches[member].array(library="ak") for name, member in members.items()}
        layouts = {name: array.layout.to_ListOffsetArray64(True) for name, array in arrays.items()}
        offsets = np.asarray(next(iter(layouts.values())).offsets.data)
        return Table({name: native(np.asarray(lay.content.data)) for name, lay in layouts.items()}, offsets)

    def _first(self, collection: str, chosen: Ints, names: tuple[str, ...]) -> dict[str, Array]:
        table = self._jagged({name: f"{collection}.{name}" for name in names})
        return _first_rows(table.take(chosen), names)


def _first_rows(table: Table, names: tuple[str, ...]) -> dict[str, Array]:
    there = table.counts > 0
    rows = table.offsets[:-1][there]
    out = {}
    for name in names:
        values = np.full(len(table), np.nan)
        values[there] = table[name][rows]
        out[name.replace(".", "_")] = values
    return out
