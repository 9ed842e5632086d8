"""The telescope's paths: what is done with each kind of record."""

from __future__ import annotations

from beamwright.event.path import Output, Path
from orca.modules import (
    Calibrate,
    FitLine,
    FitTrack,
    ImportDst,
    MaskHits,
    MaskSlices,
    Potassium,
    Rates,
    Select,
    SoftwareTrigger,
    Summarise,
)
from orca.readers import EVENT, SLICE, SUMMARY

HEADERS = ("RunHeader", "EventHeader")
RECO = ("CalHit", "LineFit", "Track", "TrackHit")
TRUE = ("McTruth", "StoredTrack", "Origin")


def reco() -> Path:
    """Reconstruct triggered events: raw to DST."""
    modules = [MaskHits(), Calibrate(), FitLine(), FitTrack()]
    return Path("reco", EVENT, modules, [Output("dst", (*HEADERS, "TrigHit", "SnapHit", *RECO, *TRUE))])


def trigger() -> Path:
    """Find events in time slices and reconstruct them: a stream of its own."""
    modules = [MaskSlices(), Potassium(), SoftwareTrigger(), Calibrate(), FitLine(), FitTrack()]
    return Path("swtrigger", SLICE, modules, [Output("swdst", (*HEADERS, "TrigHit", "SnapHit", *RECO))])


def monitor() -> Path:
    """Condense summary slices into one row each."""
    return Path("monitor", SUMMARY, [Rates()], [Output("rates", (*HEADERS, "SliceQuality"))])


def mdst() -> Path:
    """Make the mini-DST of reconstructed events."""
    banks = (*HEADERS, "Summary", "McTruth", "Origin")
    return Path("mdst", EVENT, [Summarise()], [Output("mdst", banks, tier="mdst")])


def dst_import() -> Path:
    """Bring the collaboration's DST events into the mini-DST."""
    banks = (*HEADERS, "Summary", "McTruth", "Origin")
    return Path("dst-import", EVENT, [ImportDst()], [Output("mdst", banks, tier="mdst")])


def skim() -> Path:
    """Select muons, up-going tracks and bright events from the mini-DST."""
    banks = (*HEADERS, "Summary", "McTruth", "Origin")
    outputs = [Output(name, banks, select=name, tier="skim") for name in ("muon", "upgoing", "bright")]
    return Path("skim", EVENT, [Select()], outputs)


PATHS = {
    "reco": reco,
    "swtrigger": trigger,
    "monitor": monitor,
    "mdst": mdst,
    "dst-import": dst_import,
    "skim": skim,
}
