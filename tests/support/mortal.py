"""The toy experiment with a path that dies once in its second batch, after its histograms were shown."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from pathlib import Path as FilePath

from beamwright.event.batch import Batch
from beamwright.event.module import Module, Parameter
from beamwright.event.path import Output, Path
from support import toy, toy_production

PATIENCE_S = 120.0


class Mortal(Module):
    """Waits in its second batch until a file called shown is there; then one of all attempts dies."""

    reads = ()
    folder = Parameter("", "", "where the files lie that it waits for and leaves")

    def begin_run(self, run: object) -> None:
        self.batches = 0

    def process(self, batch: Batch) -> None:
        self.batches += 1
        folder, end = FilePath(self.folder), time.monotonic() + PATIENCE_S
        while self.batches == 2 and not (folder / "shown").exists() and time.monotonic() < end:
            time.sleep(0.02)
        if self.batches == 2:
            try:
                (folder / "died").touch(exist_ok=False)
            except FileExistsError:
                return
            os.kill(os.getpid(), signal.SIGKILL)


def mortal() -> Path:
    return Path("mortal", "event", [toy.Plain(), Mortal()], [Output("dst", ["CalHit"])])


experiment = replace(toy_production.experiment, paths=toy_production.experiment.paths | {"mortal": mortal})
