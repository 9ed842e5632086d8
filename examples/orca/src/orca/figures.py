"""The figures of the telescope's productions: how good constants and tracks are, what was found."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from beamwright.core.histogram import Axis, Histogram, HistogramSet
from beamwright.event.batch import Batch
from beamwright.production.figures import Cell, Curve, Figures, Plot, Section, Table, Value
from orca import constants, match, toffsets, tot
from orca.constants import TIME_OFFSETS, TOT_SCALE
from orca.jagged import Array, Floats, concatenate
from orca.jagged import Table as Rows
from orca.match import Spans
from orca.modules import rows_of
from orca.readers import SLICE, OnlineReader
from orca.samples import BORROWED, detector
from orca.tally import Tally
from orca.toffsets import TimeOffsets, Width
from orca.tot import TotScales

if TYPE_CHECKING:
    from beamwright.production.access import Access, Collection, Delivered

REAL_TAG = "orca-real"
JUDGED = (("44", 6884, 2), ("267", 25291, 3))
"""Series, run and chunk whose slices judge the constants of the chunks before: they had no part in them."""
MIN_DOMS = 10
_AXES = ("dir_x", "dir_y", "dir_z")


def figures(access: Access) -> Figures:
    """Make all figures that the production has data for."""
    made = Figures()
    _calibration(access, made)
    _quality(access, made)
    _physics(access, made)
    _matches(access, made)
    return made


class Constants(NamedTuple):
    """Constants of one chunk under a label for people."""

    label: str
    offsets: TimeOffsets
    scales: TotScales


# --- calibration


def _calibration(access: Access, made: Figures) -> None:
    text = (
        "Each chunk is calibrated starting from the constants of the one before. The width of the time"
        " differences of ⁴⁰K coincidences, and the spread of the mean ToT of the DOMs, are measured on slices"
        " that had no part in the constants that they judge. The detector file's own offsets are the key."
    )
    section = made.section("calibration", "Calibration", text)
    _links(access, section)
    for series, run, sequence in JUDGED:
        chunk = _delivered(access, series, run, sequence)
        if chunk is not None:
            _judge(access, section, chunk)


def _links(access: Access, section: Section) -> None:
    rows = []
    for link in access.links(step="pass1"):
        figures = {name: fit.get("figures", {}) for name, fit in link.figures.items()}
        offsets, channels = figures.get("time-offsets", {}), figures.get("channel-map", {})
        cells = (
            offsets.get("width_previous"),
            offsets.get("rms_change"),
            channels.get("hot"),
            channels.get("dead"),
        )
        decisions = ", ".join(f"{n} {f['decision']}" for n, f in sorted(link.figures.items())) or link.reason
        rows.append((link.series, link.run, link.sequence, link.state, *map(_rounded, cells), decisions))
    columns = ("series", "run", "chunk", "state", "Δt width", "change", "hot", "dead", "decisions")
    units = ("", "", "", "", "ns", "ns", "", "", "")
    note = "The width is that of the chunk's own pairs under the constants it started from."
    if rows:
        section.tables.append(Table.of("Pass 1, chunk by chunk", columns, rows, units=units, note=note))


def _judge(access: Access, section: Section, chunk: Delivered) -> None:
    """Measure width and spread on a chunk under no constants, those before it, and the key."""
    name = f"{chunk.series}:{chunk.run}, chunk {chunk.sequence}"
    geometry, borrowed = detector(chunk.series), BORROWED.get(chunk.series)
    key_label = f"file of detector {borrowed}" if borrowed else "answer key"
    none = TotScales.unity(geometry.dom_id)
    sets = [
        Constants("no constants", TimeOffsets.zero(geometry.dom_id), none),
        *_constants_before(access, chunk),
        Constants(key_label, constants.intra_dom_offsets(geometry), none),
    ]
    pairs, tots = _accumulate(chunk)
    widths = [toffsets.width(pairs, c.offsets) for c in sets]
    spreads = [tot.spread(tots, c.scales)[1] for c in sets[:-1]]
    section.tables.append(_judged(name, sets, widths, spreads))
    before, after, ideal = widths[0].sigma, widths[-2].sigma, widths[-1].sigma
    note = f"before calibration {before:.2f} ns, {key_label} {ideal:.2f} ns"
    section.values.append(Value(f"⁴⁰K width, {name}", after, "ns", expected=ideal, high=before, note=note))
    note = f"before calibration {spreads[0]:.2f} ns"
    section.values.append(Value(f"ToT spread, {name}", spreads[-1], "ns", high=spreads[0], note=note))
    shown = [sets[i] for i in sorted({0, len(sets) - 2, len(sets) - 1})]
    curves = [_difference_curve(c.label, pairs, c.offsets) for c in shown]
    section.plots.append(Plot.of(f"Time differences of near PMTs, {name}", "Δt / ns", "pairs", curves))


def _judged(name: str, sets: Sequence[Constants], widths: Sequence[Width], spreads: Sequence[float]) -> Table:
    key = sets[-1].offsets
    rows = []
    for one, width, spread in zip(sets, widths, [*spreads, None], strict=True):
        distance = _rounded(toffsets.rms_difference(one.offsets, key))
        rows.append(
            (one.label, _rounded(width.sigma), _rounded(width.mean), width.pairs, distance, _rounded(spread))
        )
    columns = ("constants", "Δt width", "Δt mean", "pairs", "rms from the last", "ToT spread")
    return Table.of(f"Judged on {name}", columns, rows, units=("", "ns", "ns", "", "ns", "ns"))


def _accumulate(chunk: Delivered) -> tuple[Tally, Tally]:
    """Count pairs and ToT of a chunk's slices."""
    reader = OnlineReader.open(chunk.files, series=chunk.series, run=chunk.run)
    index = reader.index(SLICE)
    inside = (index.section >= chunk.first_section) & (index.section <= chunk.last_section)
    hits = reader.read(SLICE, np.flatnonzero(inside), ["L1Hit"])["L1Hit"]
    reader.close()
    known = detector(chunk.series)
    columns = rows_of(hits, "channel", "tdc", "tot")
    pairs = toffsets.collect(columns, known.rows(hits["dom_id"]), known.direction, known.dom_id)
    return pairs, tot.collect(hits["dom_id"], hits["tot"])


def _constants_before(access: Access, chunk: Delivered) -> list[Constants]:
    """Give the constants fitted on earlier chunks of the series, in order, each set once."""
    found: list[Constants] = []
    seen: set[str] = set()
    for link in access.links(step="pass1", series=chunk.series):
        payload_id = link.result.get(TIME_OFFSETS, "")
        if (link.run, link.sequence) >= (chunk.run, chunk.sequence) or link.state != "accepted":
            continue
        if payload_id and payload_id not in seen and payload_id != link.start.get(TIME_OFFSETS):
            seen.add(payload_id)
            offsets = constants.time_offsets(access.payload(payload_id))
            scales = constants.tot_scales(access.payload(link.result[TOT_SCALE]))
            found.append(Constants(f"after {link.series}:{link.run}, chunk {link.sequence}", offsets, scales))
    return found


def _difference_curve(label: str, pairs: Tally, offsets: TimeOffsets) -> Curve:
    dt, count = toffsets.near_differences(pairs, offsets)
    counts, edges = np.histogram(dt, np.linspace(-25.0, 25.0, 51), weights=count)
    return Curve.of(label, edges, counts, "steps")


def _delivered(access: Access, series: str, run: int, sequence: int) -> Delivered | None:
    chunks = (c for c in access.deliveries(series) if (c.run, c.sequence) == (run, sequence))
    return next(chunks, None)


# --- quality


def _quality(access: Access, made: Figures) -> None:
    section = made.section("quality", "Data quality", "What the detector and its data looked like.")
    for step, name, band in (
        ("monitor", "pmt_rate", (3.65, 4.15, "healthy")),
        ("swtrigger", "l1_tot", (26.0, 28.0, "mode")),
        ("swtrigger", "k40_dt", None),
        ("dst-import", "dst_trig_hits", None),
    ):
        plot = _overlay(_histograms(access, step), name)
        if plot is not None:
            section.plots.append(
                plot if band is None else Plot.of(plot.title, plot.x, plot.y, plot.curves, bands=[band])
            )


def _histograms(access: Access, step: str) -> dict[str, HistogramSet]:
    """Sum a step's histograms by series, those of resampled runs left out."""
    runs = sorted({(c.series, c.interval.first[0]) for c in access.collections(step=step)})
    return {
        series: HistogramSet.merged(
            access.histograms(step, series=s, run=run) for s, run in runs if s == series
        )
        for series in sorted({series for series, _ in runs})
    }


def _overlay(sets: dict[str, HistogramSet], name: str) -> Plot | None:
    """Draw a histogram of all series over each other, to equal area."""
    drawn = {s: found[name] for s, found in sets.items() if name in found and found[name].entries}
    if not drawn:
        return None
    first = next(iter(drawn.values()))
    curves = [Curve.histogram(h, f"detector {s}", density=True) for s, h in drawn.items()]
    return Plot.of(first.title or name, first.axes[0].label, "density", curves)


# --- physics


def _physics(access: Access, made: Figures) -> None:
    text = (
        "Tracks against what is known better: the collaboration's own fit, and the truth of the simulation."
    )
    section = made.section("physics", "Tracks", text)
    collections = access.collections(step="reco", stream="dst")
    _compare(access, section, "StoredTrack", "stored tracks", [c for c in collections if not c.is_mc])
    _compare(access, section, "McTruth", "truth", [c for c in collections if c.is_mc])
    _down_going(access, section, [c for c in collections if not c.is_mc])
    _zenith(access, section)
    _skims(access, section)


def _compare(access: Access, section: Section, bank: str, name: str, among: Sequence[Collection]) -> None:
    """Compare line and track fit with better-known directions, event by event."""
    lines, tracks, doms = [], [], []
    for batch in access.batches(among, ["LineFit", "Track", bank]):
        known = (batch[bank].counts > 0) & (batch["Track"].counts > 0)
        wanted = _directions(batch, bank, known)
        lines.append(_angles(_directions(batch, "LineFit", known), wanted))
        tracks.append(_angles(_directions(batch, "Track", known), wanted))
        doms.append(batch["Track"]["n_doms"][known[batch["Track"].record_index]])
    angle, line, many = (np.concatenate(parts) if parts else np.zeros(0) for parts in (tracks, lines, doms))
    if not len(angle):
        return
    enough = many >= MIN_DOMS
    rows = [
        ("line fit", len(line), _median(line), int(enough.sum()), _median(line[enough])),
        ("track fit", len(angle), _median(angle), int(enough.sum()), _median(angle[enough])),
    ]
    columns = ("fit", "events", "median angle", f"≥ {MIN_DOMS} DOMs", "median angle of these")
    section.tables.append(Table.of(f"Directions against {name}", columns, rows, units=("", "", "°", "", "°")))
    note = f"the line fit has {_median(line)}°"
    fit = Value(f"track fit to {name}, median", _median(angle), "°", high=_median(line), note=note)
    section.values.append(fit)
    axis = Axis(45, 0.0, 90.0, "angle / °")
    curves = [_counted(label, axis, values) for label, values in (("line fit", line), ("track fit", angle))]
    section.plots.append(Plot.of(f"Angles to {name}", "angle / °", "events", curves))


def _down_going(access: Access, section: Section, among: Sequence[Collection]) -> None:
    directions = [batch["LineFit"]["dir_z"] for batch in access.batches(among, ["LineFit"])]
    dir_z = np.concatenate(directions) if directions else np.zeros(0)
    if len(dir_z):
        down = int((dir_z < 0).sum())
        note = f"{down} of {len(dir_z)} real events come down, as muons from the atmosphere must"
        section.values.append(Value("down-going share of line fits", down / len(dir_z), low=0.85, note=note))


def _zenith(access: Access, section: Section) -> None:
    axis = Axis(20, -1.0, 1.0, "cos θ")
    curves = []
    for label, is_mc in (("data", False), ("simulation", True)):
        found = access.collections(tier="mdst", is_mc=is_mc)
        values = [batch["Summary"]["cos_zenith"] for batch in access.batches(found, ["Summary"])]
        if values:
            histogram = Histogram("zenith", (axis,))
            histogram.fill(np.concatenate(values))
            curves.append(Curve.histogram(histogram, label, density=True))
    if curves:
        section.plots.append(
            Plot.of("Directions of all tracks", "cos θ (1 is down-going)", "density", curves)
        )


def _skims(access: Access, section: Section) -> None:
    counts: dict[tuple[str, int, str], dict[str, int]] = {}
    for c in access.collections(step="skim"):
        kind = "simulation" if c.is_mc else "data"
        row = counts.setdefault((c.series, c.interval.first[0], kind), {})
        row[c.stream] = row.get(c.stream, 0) + c.events
    if counts:
        streams = sorted({stream for row in counts.values() for stream in row})
        rows: list[Sequence[Cell]] = [
            (*key, *(row.get(stream, 0) for stream in streams)) for key, row in sorted(counts.items())
        ]
        section.tables.append(Table.of("Events in the skims", ("series", "run", "kind", *streams), rows))


# --- software trigger


def _matches(access: Access, made: Figures) -> None:
    text = (
        "Events that the software trigger found in the L1 slices, beside those the detector triggered in the"
        " same frames. The two are streams of their own and never counted together. Events of five DOMs with"
        " two hits each are mostly chance: the trigger is kept as loose as its definition."
    )
    section = made.section("matches", "Software trigger", text)
    found_in = access.collections(step="swtrigger", stream="swdst")
    daq_in = [c for c in access.collections(step="reco", stream="dst") if not c.is_mc]
    rows = []
    for series in sorted({c.series for c in found_in}):
        found = _spans(access, [c for c in found_in if c.series == series])
        daq = _spans(access, [c for c in daq_in if c.series == series])
        if found is None or daq is None:
            continue
        i, j = match.matches(found, daq)
        matched = ", ".join(f"{daq.run[d]}:{daq.frame[d]}" for d in np.unique(j)) or "none"
        frames = _common_frames(access, series, daq)
        rows.append((series, len(found), frames, len(np.unique(j)), matched))
        section.values.append(Value(f"matched events of detector {series}", float(len(np.unique(i)))))
    if rows:
        columns = ("series", "software events", "DAQ events in these frames", "matched", "run:frame")
        section.tables.append(Table.of("Matches with triggered events", columns, rows))


def _spans(access: Access, among: Sequence[Collection]) -> Spans | None:
    """Take run, frame and time span of all events from their triggered hits."""
    runs, frames, hits = [], [], []
    for batch in access.batches(among, ["TrigHit"]):
        runs.append(np.full(batch.n, batch.run))
        frames.append(batch.section)
        hits.append(Rows({"tdc": batch["TrigHit"]["tdc"]}, batch["TrigHit"].offsets))
    if not hits:
        return None
    return match.spans(np.concatenate(runs), np.concatenate(frames), concatenate(hits))


def _common_frames(access: Access, series: str, daq: Spans) -> int:
    """Count the DAQ events in frames of which there are slices."""
    total = 0
    for chunk in access.deliveries(series):
        if chunk.reader != "online":
            continue
        reader = OnlineReader.open(chunk.files, series=series, run=chunk.run)
        section = reader.index(SLICE).section
        reader.close()
        inside = section[(section >= chunk.first_section) & (section <= chunk.last_section)]
        total += int(((daq.run == chunk.run) & np.isin(daq.frame, inside)).sum())
    return total


# --- small helpers


def _directions(batch: Batch, bank: str, records: Array) -> Floats:
    table = batch[bank]
    chosen = records[table.record_index]
    return np.stack([table[axis][chosen] for axis in _AXES], axis=1)


def _angles(a: Floats, b: Floats) -> Floats:
    """Angles between directions, in degrees."""
    return np.asarray(np.degrees(np.arccos(np.clip((a * b).sum(axis=1), -1.0, 1.0))))


def _median(values: Iterable[float] | Array) -> float | None:
    array = np.asarray(values, np.float64)
    return _rounded(float(np.nanmedian(array))) if np.isfinite(array).any() else None


def _rounded(value: float | int | None, digits: int = 3) -> float | int | None:
    return round(value, digits) if isinstance(value, float) else value


def _counted(label: str, axis: Axis, values: Floats) -> Curve:
    histogram = Histogram(label, (axis,))
    histogram.fill(values[np.isfinite(values)])
    return Curve.histogram(histogram, label)
