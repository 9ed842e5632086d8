"""Job directories for the trivial payload, without a database."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from beamwright import durable

PAYLOAD = Path(__file__).resolve().parents[1] / "kill" / "payload.py"
COMMANDS = {name: [sys.executable, str(PAYLOAD), name] for name in ("process", "validate")}
KEY = bytes(range(32))
RECORDS = "".join(f"{s} {e} {10 * s + e}\n" for s in range(3) for e in range(10))


def make_job(root: Path, name: str = "one", **changes: Any) -> Path:
    """Write a job directory with one raw input of 30 records, of which one is poison."""
    raw = root / "raw.txt"
    raw.write_bytes(b"trivial 1\n" + RECORDS.encode())
    digest = durable.hash_file(raw)
    job: dict[str, Any] = {
        "kind": "process",
        "experiment": "trivial",
        "release": "sha256:trivial",
        "config": {},
        "attempt": {"unit": "u" * 64, "number": 1, "nonce": name, "farm": "near"},
        "record": "event",
        "interval": ["S", [1, 0, 0], [1, 2, 99]],
        "inputs": [
            {"path": str(raw), "name": "raw:one", "sha256": digest.sha256, "size": digest.size, "kind": "raw"}
        ],
        "conditions": None,
        "streams": {
            "dst": {"tier": "dst", "name": "p:dst", "file": "dst.txt"},
            "histograms": {"tier": "dst", "name": "p:histograms", "file": "histograms.bwb"},
        },
        "limits": {"wall_s": 60, "memory_mb": 1000, "heartbeat_s": 0.1},
        "output_directory": str(root / "store" / name),
        "scratch": str(root / "scratch" / name),
        "commands": COMMANDS,
    }
    job |= changes
    directory = root / "jobs" / name
    directory.mkdir(parents=True)
    (directory / "ticket").write_text(KEY.hex())
    (directory / "job.json").write_text(json.dumps(job))
    return directory


def wish(what: str) -> dict[str, Any]:
    """Return the change that makes the payload do something special."""
    return {"config": {"wish": what}}


def report_of(directory: Path) -> dict[str, Any]:
    """Return the report of a job directory's attempt."""
    job = json.loads((directory / "job.json").read_bytes())
    report: dict[str, Any] = json.loads((Path(job["output_directory"]) / "report.json").read_bytes())
    return report
