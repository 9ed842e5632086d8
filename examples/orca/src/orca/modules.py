"""The modules of the telescope's paths: each wraps one function of its physics."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from beamwright.core.histogram import Axis, HistogramSet
from beamwright.core.runs import Interval
from beamwright.event.batch import Batch, Table
from beamwright.event.module import Builder, Conditions, Module, Parameter
from orca import constants, linefit, selections, swtrigger, toffsets, trackfit
from orca.channelmap import ChannelMap
from orca.constants import CHANNEL_MAP, GEOMETRY, TIME_OFFSETS, TOT_SCALE, Geometry, TimeScale
from orca.detx import CHANNELS
from orca.jagged import Array, Ints, offsets_of
from orca.jagged import Table as Rows
from orca.raw import packets, rate_hz
from orca.toffsets import TimeOffsets
from orca.tot import TotScales

NO_TRACK, OWN_TRACK, STORED_TRACK = 0, 1, 2
_AXES = ("dir_x", "dir_y", "dir_z")
_PLACE = ("x", "y", "z")


def rows_of(table: Table, *names: str) -> Rows:
    """View columns of a bank as the physics functions take them."""
    return Rows({name: table[name] for name in names}, table.offsets)


class MaskHits(Module):
    """Drop triggered hits of hot and dead photomultipliers; the snapshot keeps them all."""

    reads = ("TrigHit", f"{CHANNEL_MAP}@conditions")
    writes = ("TrigHit",)
    bank = "TrigHit"

    def conditions_changed(self, interval: Interval, conditions: Conditions) -> None:
        self.channels: ChannelMap = constants.channel_map(conditions[CHANNEL_MAP])

    def process(self, batch: Batch) -> None:
        hits = batch[self.bank]
        hits.filter(~self.channels.masked(hits["dom_id"], hits["channel"]), batch)


class MaskSlices(MaskHits):
    """Drop hits of hot and dead photomultipliers from time slices."""

    reads = ("L1Hit", f"{CHANNEL_MAP}@conditions")
    writes = ("L1Hit",)
    bank = "L1Hit"


class Calibrate(Module):
    """Give triggered hits place, direction, calibrated time and charge; hits on unknown DOMs are left out."""

    reads = ("TrigHit", *(f"{role}@conditions" for role in (GEOMETRY, TIME_OFFSETS, TOT_SCALE)))
    writes = ("CalHit",)

    def conditions_changed(self, interval: Interval, conditions: Conditions) -> None:
        self.scale: TimeScale = _time_scale(conditions)
        self.tot: TotScales = constants.tot_scales(conditions[TOT_SCALE])

    def process(self, batch: Batch) -> None:
        hits = batch["TrigHit"]
        constants.check_channels(hits["channel"])
        row = self.scale.geometry.rows(hits["dom_id"])
        known = row >= 0
        row, channel, dom = row[known], hits["channel"][known], hits["dom_id"][known]
        within = np.arange(hits.rows) - hits.offsets[hits.record_index]
        columns = {
            "dom_id": dom,
            "t": self.scale.times(row, channel, hits["tdc"][known]),
            "charge": hits["tot"][known] * self.tot.of(dom),
            "hit": within[known],
            **_axes(_PLACE, self.scale.geometry.position[row, channel]),
            **_axes(_AXES, self.scale.geometry.direction[row, channel]),
        }
        counts = np.bincount(hits.record_index[known], minlength=batch.n)
        batch["CalHit"] = Table.from_counts("CalHit", counts, columns)


class FitLine(Module):
    """Fit a line moving at constant velocity to the calibrated hits."""

    reads = ("CalHit",)
    writes = ("LineFit",)

    def process(self, batch: Batch) -> None:
        fits = linefit.fit_lines(rows_of(batch["CalHit"], *_PLACE, "t"))
        columns = {
            "n_hits": fits.n_hits, "t": fits.time, "speed": fits.speed, "rms": fits.rms,
            **_axes(_PLACE, fits.position), **_axes(_AXES, fits.direction),
        }  # fmt: skip
        batch["LineFit"] = Table.one("LineFit", columns)


class FitTrack(Module):
    """Fit a muon track with Cherenkov light to the first hit on each DOM, from the line fit and its tilts."""

    reads = ("CalHit", "LineFit", "EventHeader")
    writes = ("Track", "TrackHit")

    def book(self, histograms: HistogramSet) -> None:
        self.residuals = histograms.book(
            "track_residual", Axis(100, -50.0, 50.0, "residual / ns"), title="Hits on tracks"
        )
        self.zenith = histograms.book(
            "track_cos_zenith", Axis(20, -1.0, 1.0, "cos θ"), title="Directions of tracks"
        )

    def process(self, batch: Batch) -> None:
        hits = batch["CalHit"]
        table = Rows({**rows_of(hits, *_PLACE, "t").columns, "dom": hits["dom_id"]}, hits.offsets)
        first = np.zeros(hits.rows, bool)
        first[trackfit.first_hits(table)] = True
        start = np.stack([batch["LineFit"][axis] for axis in _AXES], axis=1)
        fits = trackfit.fit_tracks(table.where(first), start)
        fitted = fits.n_doms > 0
        batch["Track"] = self._tracks(fits, fitted)
        batch["TrackHit"] = self._hits(hits, first, fits, fitted)
        batch.fill(self.residuals, batch["TrackHit"]["residual"])
        batch.fill(self.zenith, selections.cos_zenith(batch["Track"]["dir_z"]))

    def _tracks(self, fits: trackfit.TrackFits, fitted: Array) -> Table:
        columns: dict[str, Array] = {
            "n_doms": fits.n_doms, "t": fits.time, "loss": fits.loss, "rms": fits.rms, "start": fits.start,
            "header": np.zeros(len(fits), np.int32),
            **_axes(_PLACE, fits.position), **_axes(_AXES, fits.direction),
        }  # fmt: skip
        return Table.from_counts("Track", fitted, {name: v[fitted] for name, v in columns.items()})

    def _hits(self, hits: Table, first: Array, fits: trackfit.TrackFits, fitted: Array) -> Table:
        on_track = fitted[hits.record_index[first]]
        used = np.flatnonzero(first)[on_track]
        record = hits.record_index[used]
        columns: dict[str, Array] = {
            "residual": fits.residual[on_track],
            "track": np.zeros(len(used), np.int32),
            "hit": used - hits.offsets[record],
        }
        return Table.from_counts("TrackHit", np.bincount(record, minlength=hits.records), columns)


class SoftwareTrigger(Builder):
    """Build events out of time slices where enough DOMs have causally connected coincidences."""

    builds = "swevent"
    reads = ("L1Hit", "RunHeader", "EventHeader", *(f"{r}@conditions" for r in (GEOMETRY, TIME_OFFSETS)))
    writes = ("RunHeader", "EventHeader", "TrigHit", "SnapHit")

    def conditions_changed(self, interval: Interval, conditions: Conditions) -> None:
        self.scale: TimeScale = _time_scale(conditions)

    def build(self, batch: Batch) -> Batch:
        hits = batch["L1Hit"]
        constants.check_channels(hits["channel"])
        known = np.flatnonzero(self.scale.geometry.rows(hits["dom_id"]) >= 0)
        found = swtrigger.find_events(self._calibrated(hits, known))
        created = self.create(batch, found.slice, found.number.astype(np.uint64))
        for bank in ("RunHeader", "EventHeader"):
            created[bank] = Table.one(bank, {c: batch[bank][c][found.slice] for c in batch[bank].columns})
        triggered, snapshot = known[found.triggered["row"]], known[found.snapshot["row"]]
        links = _place_of(triggered, snapshot, found.triggered, found.snapshot)
        mask = np.zeros(len(triggered), np.uint64)
        created["TrigHit"] = _chosen(
            "TrigHit", hits, triggered, found.triggered, snap=links, trigger_mask=mask
        )
        header = np.zeros(len(snapshot), np.int32)
        created["SnapHit"] = _chosen("SnapHit", hits, snapshot, found.snapshot, header=header)
        return created

    def _calibrated(self, hits: Table, known: Ints) -> Rows:
        dom, channel = hits["dom_id"][known], hits["channel"][known]
        row = self.scale.geometry.rows(dom)
        columns = {
            "dom": row, "channel": channel, "t": self.scale.times(row, channel, hits["tdc"][known]),
            **_axes(_PLACE, self.scale.geometry.position[row, channel]),
        }  # fmt: skip
        return Rows(columns, offsets_of(np.bincount(hits.record_index[known], minlength=hits.records)))


class Potassium(Module):
    """Monitor time slices: time differences of near PMTs on one DOM, calibrated, and time over threshold."""

    reads = ("L1Hit", *(f"{role}@conditions" for role in (GEOMETRY, TIME_OFFSETS, TOT_SCALE)))

    def book(self, histograms: HistogramSet) -> None:
        self.dt = histograms.book("k40_dt", Axis(50, -25.0, 25.0, "Δt / ns"), title="⁴⁰K coincidences")
        self.tot = histograms.book("l1_tot", Axis(24, 15.5, 39.5, "ToT / ns"), title="Hits of time slices")
        self.charge = histograms.book(
            "l1_charge", Axis(50, 15.0, 40.0, "charge / ns"), title="Hits of time slices, on the common scale"
        )

    def conditions_changed(self, interval: Interval, conditions: Conditions) -> None:
        self.geometry = Geometry.of(conditions[GEOMETRY])
        self.offsets: TimeOffsets = constants.time_offsets(conditions[TIME_OFFSETS])
        self.scales: TotScales = constants.tot_scales(conditions[TOT_SCALE])

    def process(self, batch: Batch) -> None:
        hits = batch["L1Hit"]
        batch.fill(self.tot, hits["tot"])
        batch.fill(self.charge, hits["tot"] * self.scales.of(hits["dom_id"]))
        rows = self.geometry.rows(hits["dom_id"])
        columns = rows_of(hits, "channel", "tdc", "tot")
        counts = toffsets.collect(columns, rows, self.geometry.direction, self.geometry.dom_id)
        dt, number = toffsets.near_differences(counts, self.offsets)
        batch.fill(self.dt, np.repeat(dt, number))


class Rates(Module):
    """Condense summary slices: rates, vetoes and completeness of the detector."""

    reads = ("SummaryFrame",)
    writes = ("SliceQuality",)

    def book(self, histograms: HistogramSet) -> None:
        self.rate = histograms.book(
            "pmt_rate", Axis(80, 3.0, 7.0, "log₁₀(rate / Hz)"), title="Rates of photomultipliers"
        )
        self.packets = histograms.book(
            "udp_complete", Axis(2, -0.5, 1.5, "all packets received"), title="Frames of DOMs"
        )

    def process(self, batch: Batch) -> None:
        frames = batch["SummaryFrame"]
        rate = rate_hz(frames["rate"].values.reshape(-1, CHANNELS))
        vetoed = ((frames["hrv"][:, None].astype(np.int64) >> np.arange(CHANNELS)) & 1).astype(bool)
        _, complete = packets(frames["dq"])
        batch.fill(self.rate, np.log10(rate[~vetoed & (rate > 0)]))
        batch.fill(self.packets, complete.astype(np.float64))
        counts = frames.counts
        columns = {
            "doms": counts,
            "rate": _medians(np.where(vetoed, np.nan, rate), frames.offsets),
            "vetoed": np.bincount(frames.record_index, vetoed.sum(axis=1), batch.n).astype(np.int64),
            "complete": np.bincount(frames.record_index, complete, batch.n) / np.maximum(counts, 1),
        }
        batch["SliceQuality"] = Table.one("SliceQuality", columns)


class Summarise(Module):
    """Make the mini-DST row of events that we reconstructed."""

    reads = ("TrigHit", "SnapHit", "Track")
    writes = ("Summary",)

    def process(self, batch: Batch) -> None:
        track, n, doms = batch["Track"], batch.n, _doms(batch["TrigHit"])
        there = track.counts > 0
        directions = {axis: _where(there, track[axis]) for axis in _AXES}
        nothing = np.full(n, np.nan, np.float32)
        batch["Summary"] = Table.one("Summary", {
            "source": np.where(there, OWN_TRACK, NO_TRACK), "cos_zenith": -directions["dir_z"], **directions,
            "likelihood": nothing, "beta0": nothing, "energy": nothing, "rms": _where(there, track["rms"]),
            "doms": np.where(there, _where(there, track["n_doms"], 0), doms).astype(np.int64),
            "hits": batch["SnapHit"].counts, "trig_hits": batch["TrigHit"].counts,
        })  # fmt: skip


class ImportDst(Module):
    """Make the mini-DST row of events that the collaboration reconstructed."""

    reads = ("StoredTrack", "HitCounts")
    writes = ("Summary",)

    def book(self, histograms: HistogramSet) -> None:
        self.hits = histograms.book(
            "dst_trig_hits", Axis(100, 0.5, 200.5, "triggered hits"), title="Triggered hits of DST events"
        )
        self.zenith = histograms.book(
            "dst_cos_zenith", Axis(40, -1.0, 1.0, "cos θ"), title="Directions of DST events"
        )
        self.down = histograms.book(
            "dst_down", Axis(2, -0.5, 1.5, "down-going"), title="DST events that come down"
        )

    def process(self, batch: Batch) -> None:
        track, counts = batch["StoredTrack"], batch["HitCounts"]
        there = track.counts > 0
        column = {name: _where(there, track[name]) for name in (*_AXES, "likelihood", "beta0", "energy")}
        fitted = there & ~np.isnan(column["beta0"])
        batch["Summary"] = Table.one("Summary", {
            "source": np.where(there, STORED_TRACK, NO_TRACK), "cos_zenith": -column["dir_z"], **column,
            "rms": np.full(batch.n, np.nan), "doms": counts["trig_doms"],
            "hits": counts["hits"], "trig_hits": counts["trig_hits"],
        })  # fmt: skip
        batch.fill(self.hits, counts["trig_hits"])
        batch.fill(self.zenith, -column["dir_z"][fitted])
        batch.fill(self.down, (column["dir_z"][fitted] < 0).astype(np.float64))


class Select(Module):
    """Choose events for the skims: muons, up-going tracks, bright events.

    Our own tracks have no likelihood and no angular uncertainty; they need hits on enough DOMs instead.
    """

    min_doms = Parameter(10, doc="DOMs that one of our own tracks must have.")
    reads = ("Summary",)

    def process(self, batch: Batch) -> None:
        row = batch["Summary"]
        own = (row["source"] == OWN_TRACK) & (row["doms"] >= self.min_doms)
        stored = row["likelihood"], row["beta0"], row["dir_z"]
        batch.select(selections.muon(*stored) | (own & (row["cos_zenith"] > 0.2)), "muon")
        batch.select(selections.upgoing(*stored) | (own & (row["cos_zenith"] < 0.0)), "upgoing")
        batch.select(selections.bright(row["trig_hits"]), "bright")


def _time_scale(conditions: Conditions) -> TimeScale:
    geometry = Geometry.of(conditions[GEOMETRY])
    return TimeScale.of(geometry, constants.time_offsets(conditions[TIME_OFFSETS]))


def _axes(names: tuple[str, ...], vectors: Array) -> dict[str, Array]:
    return {name: vectors[:, i] for i, name in enumerate(names)}


def _where(there: Array, values: Array, missing: float = np.nan) -> Array:
    """Spread one value per present row over all records."""
    spread = np.full(len(there), missing)
    spread[there] = values
    return spread


def _chosen(bank: str, hits: Table, rows: Ints, cut: Rows, **more: Array) -> Table:
    columns = {name: hits[name][rows] for name in ("dom_id", "channel", "tdc", "tot")}
    return Table(bank, cut.offsets, {**columns, **more})


def _place_of(triggered: Ints, snapshot: Ints, first: Rows, second: Rows) -> Ints:
    """Find each triggered row in the (ascending) snapshot rows of the same event."""
    span = int(max(snapshot.max(initial=0), triggered.max(initial=0))) + 1
    place = np.searchsorted(second.owner * span + snapshot, first.owner * span + triggered)
    return place - second.offsets[first.owner]


def _medians(values: Array, offsets: Ints) -> Array:
    with np.errstate(all="ignore"):
        parts = [values[a:b] for a, b in pairwise(offsets)]
        return np.array([np.nanmedian(p) if np.isfinite(p).any() else np.nan for p in parts])


def _doms(hits: Table) -> Ints:
    """Count the DOMs hit in each event."""
    order = np.lexsort((hits["dom_id"], hits.record_index))
    dom, record = hits["dom_id"][order], hits.record_index[order]
    first = np.ones(len(order), bool)
    first[1:] = (np.diff(dom) != 0) | (np.diff(record) != 0)
    return np.bincount(record[first], minlength=hits.records)
