"""What the framework costs per event: pass 2 of the sample telescope, against a bare script.

The bare script calls the same module functions on the same input and writes the same banks with uproot. Each
side runs in a process of its own; CPU seconds count, start-up included.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from harness import Figure, arguments, child_cpu, report, side_by_side

BENCH = "production/event_cost"

COMMON = """
import sys
from pathlib import Path
import numpy as np
from beamwright.conditions.payload import Payload
from beamwright.conditions.snapshot import Snapshot
from beamwright.core.histogram import HistogramSet
from beamwright.core.lineage import Lineage
from beamwright.core.runs import Interval
from beamwright.event.loop import run_path
from beamwright.event.module import Constants
from orca import paths
from orca.resample import MixedReader
from orca.readers import BANKS
from orca.samples import geometry, initial, sample

source, target = Path(sys.argv[1]), Path(sys.argv[2])
daq = sample("online/events_sample.root")
reader = MixedReader.open({"daq": daq, "recipe": source}, series="44", run=906884)
path = paths.reco()
payloads = {"Geometry": geometry("44"), **initial("44")}
interval = Interval.runs("44", 0, 10**6)
present = (*reader.banks("event"), *paths.RECO)
banks = [name for name in path.outputs[0].banks if name in present]
"""

OURS = """
pieces = [(role, interval, payload.id) for role, payload in payloads.items()]
snapshot = Snapshot("bench", pieces, {payload.id: payload for payload in payloads.values()})
lineage = lambda stream: Lineage("orca", "bench", "reco", "reco", stream, "dst", "44", "bench", "bench")
run_path(path, reader, interval, banks=BANKS, snapshot=snapshot, outputs={"dst": target}, lineage=lineage)
"""

BARE = """
import awkward as ak
import uproot

constants = {}
for role, payload in payloads.items():
    arrays, document = payload.unpack()
    constants[role] = Constants(arrays, document, payload.id)
modules, histograms = path.modules, HistogramSet()
for module in modules:
    module.book(histograms)
    module.conditions_changed(interval, constants)


def records(table):
    columns = {}
    for name, column in table.columns.items():
        columns[name] = column.to_awkward() if hasattr(column, "to_awkward") else column
    rows = ak.zip(columns, depth_limit=1)
    return rows if table.bank.rows == "one" else ak.unflatten(rows, table.counts)


with uproot.recreate(target) as file:
    tuple_, n = None, len(reader.index("event"))
    for start in range(0, n, 2000):
        batch = reader.read("event", np.arange(start, min(n, start + 2000)))
        for module in modules:
            module.process(batch)
        data = {"section": batch.section, "event": batch.event}
        data |= {name: records(batch[name]) for name in banks}
        if tuple_ is None:
            tuple_ = file.mkrntuple("events", data)
        else:
            tuple_.extend(data)
"""

COMPARE = """
import sys
import awkward as ak
import uproot

def read(path):
    with uproot.open(path) as file:
        key = next(k for k, name in file.classnames(cycle=False).items() if name == "ROOT::RNTuple")
        return file[key].arrays()

ours, bare = read(sys.argv[1]), read(sys.argv[2])
loose = {"equal_nan": True, "check_parameters": False, "dtype_exact": False}
same = len(ours) == len(bare) > 0 and all(
    ak.array_equal(ours[bank][column], bare[bank][column], **loose)
    for bank in bare.fields if bare[bank].fields for column in bare[bank].fields
)
print("equal" if same else "different")
"""


def main() -> None:
    """Time both sides and compare what they wrote."""
    options = arguments(__doc__, events=20_000)
    figures = []
    with tempfile.TemporaryDirectory() as folder:
        for n in (options.events // 10, options.events):
            figures.append(compare(Path(folder), n, options.repeat))
    report(figures, options.json)


def compare(folder: Path, n: int, repeat: int) -> Figure:
    """Run both sides on n events."""
    recipe = folder / f"recipe-{n}.json"
    recipe.write_text(f'{{"events": {n}, "source_run": 6884, "seed": 1}}')
    scripts = {"ours": COMMON + OURS, "bare": COMMON + BARE}
    outputs = {side: folder / f"{side}-{n}.root" for side in scripts}

    def run(side: str) -> float:
        outputs[side].unlink(missing_ok=True)
        return child_cpu(
            [sys.executable, "-c", scripts[side], str(recipe), str(outputs[side])], dict(os.environ)
        )()

    ours, bare = side_by_side([lambda: run("ours"), lambda: run("bare")], repeat)
    command = [sys.executable, "-c", COMPARE, str(outputs["ours"]), str(outputs["bare"])]
    verdict = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    cost, peer = 1000 * ours / n, 1000 * bare / n
    work = f"pass 2 of {n} events, start-up included"
    name = "bare loop over the same functions, uproot"
    return Figure(BENCH, work, n, cost, peer, name, "ms/event", bare / ours, verdict == "equal")


if __name__ == "__main__":
    main()
