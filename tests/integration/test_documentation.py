"""The code in the guides runs as it stands there."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from beamwright.core.lineage import Lineage
from beamwright.event.banks import BankSet
from beamwright.event.batch import Batch, Jagged, Table
from beamwright.event.store import StreamWriter

DOCS = Path(__file__).resolve().parents[2] / "docs"
BLOCK = re.compile(r"(?:<!-- needs: (\w+) -->\n)?```python\n(.*?)```", flags=re.DOTALL)


def _blocks(page: str) -> list[tuple[str, str]]:
    return BLOCK.findall((DOCS / page).read_text(encoding="utf-8"))


def _run(code: str, folder: Path) -> str:
    """Run a block as a reader would: in a fresh interpreter, where the file lies."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def dst(tmp_path: Path) -> Path:
    """Write the file that the guide reads: three events with two, no and one hit."""
    banks = BankSet.from_document(
        {
            "EventHeader": {"rows": "one", "columns": {"trigger_mask": {"type": "u8"}}},
            "Hit": {"columns": {"t": {"type": "f8", "unit": "ns"}, "residuals": {"type": "f4[]"}}},
        }
    )
    batch = Batch("event", "44", 6884, np.full(3, 366), np.arange(3), banks=banks)
    batch["EventHeader"] = Table.one("EventHeader", {"trigger_mask": np.ones(3, np.uint64)})
    residuals = Jagged.from_counts([1, 0, 2], np.zeros(3, np.float32))
    batch["Hit"] = Table.from_counts("Hit", [2, 0, 1], {"t": [1.0, 2.0, 3.0], "residuals": residuals})
    lineage = Lineage("toy", "p", "reco", "reco", "dst", "dst", "44", "sha256:0", "0", resolved_hash="abc")
    with StreamWriter(tmp_path / "dst.root", "dst", banks, lineage) as writer:
        writer.write(batch)
        writer.close()
    return tmp_path


EXPECTED = [
    "3 events",
    "3.0 hits",
    "44:6884:366:0 [2 0 1] [1. 2. 3.]",
    "[[1.0, 2.0], [], [3.0]] [0 1 2]",
    "sha256:0 abc 3",
    "dst",
]


@pytest.mark.parametrize("number", range(len(EXPECTED)))
def test_reading_outputs_works_as_the_guide_says(dst: Path, number: int) -> None:
    blocks = _blocks("how-to/read-outputs.md")
    assert len(blocks) == len(EXPECTED)
    needs, code = blocks[number]
    if needs and importlib.util.find_spec(needs) is None:
        pytest.skip(f"{needs} is not installed")
    assert _run(code, dst).strip() == EXPECTED[number]


def _imported(code: str, folder: Path) -> ModuleType:
    """Write a block into a module and import it."""
    source = folder / "steering.py"
    source.write_text(code, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("steering_of_the_docs", source)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_steering_of_the_reference_is_a_path_that_passes_its_checks(tmp_path: Path) -> None:
    (_, code), *_ = _blocks("reference/steering.md")
    banks = BankSet.from_document(
        {
            "Hit": {"columns": {"t": {"type": "f8"}, "channel": {"type": "u1"}}},
            "CalHit": {"columns": {"t": {"type": "f8"}}},
        }
    )
    path = _imported(code, tmp_path).path
    assert path.check(banks, ["Hit"], ["TimeOffsets"]) == ("Hit",)
    assert path.configuration() == {"Calibrate": {}, "Count": {"least": 2}}
