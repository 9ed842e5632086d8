"""A payload that needs no experiment, for tests of batch systems: it writes one file, or sleeps, or fails.

``python -m beamwright.testing.payload process --job FILE`` does what the job's ``config`` says under
``wish``: ``ok``, ``sleep`` (until it is stopped or for ``seconds``) or ``fail``; ``validate --json FILE...``
gives the verdict on what it wrote.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

COMMANDS = {
    name: [sys.executable, "-m", "beamwright.testing.payload", name] for name in ("process", "validate")
}
KEY = bytes(range(32))
CONTENT = b"one event\n"
STARTED = "payload started"


def make_job(root: Path, name: str, wish: str = "ok", **config: Any) -> Path:
    """Write a job directory whose payload does what is wished; return it."""
    job: dict[str, Any] = {
        "kind": "process",
        "experiment": "testing",
        "release": "testing",
        "config": {"wish": wish, **config},
        "attempt": {
            "unit": hashlib.sha256(name.encode()).hexdigest(),
            "number": 1,
            "nonce": name,
            "farm": "f",
        },
        "inputs": [],
        "conditions": None,
        "streams": {"dst": {"tier": "dst", "name": f"testing:{name}", "file": "dst.txt"}},
        "limits": {"wall_s": 300, "memory_mb": 2000, "heartbeat_s": 0.5},
        "output_directory": str(root / "store" / name),
        "scratch": str(root / "scratch" / name),
        "commands": COMMANDS,
    }
    directory = root / "jobs" / name
    directory.mkdir(parents=True)
    (directory / "ticket").write_text(KEY.hex())
    (directory / "job.json").write_text(json.dumps(job))
    return directory


def report_of(directory: Path) -> dict[str, Any] | None:
    """Return the report of a job directory's attempt, if there is one."""
    job = json.loads((directory / "job.json").read_bytes())
    path = Path(job["output_directory"]) / "report.json"
    return dict(json.loads(path.read_bytes())) if path.exists() else None


def has_started(directory: Path) -> bool:
    """Tell whether the payload runs or has run."""
    log = directory / "log"
    return log.exists() and STARTED.encode() in log.read_bytes()


def process(config: Mapping[str, Any]) -> int:
    """Do what is wished, in the present directory."""
    sys.stdout.write(f"{STARTED}\n")
    sys.stdout.flush()
    if config["wish"] == "sleep":
        time.sleep(float(config.get("seconds", 600)))
    is_ok = config["wish"] != "fail"
    output = {"stream": "dst", "file": "dst.txt", "events": 1, "uuid": None, "kind": "bundle"}
    Path("dst.txt").write_bytes(CONTENT)
    document = {
        "status": "ok" if is_ok else "failed",
        "failure_class": None if is_ok else "application_error",
        "message": "" if is_ok else "it was told to fail",
        "release": "testing",
        "outputs": [output] if is_ok else [],
    }
    Path("payload.json").write_text(json.dumps(document))
    return 0 if is_ok else 1


def validate(files: Sequence[str]) -> int:
    """Print a verdict on each file."""
    for file in files:
        data = Path(file).read_bytes()
        verdict = {
            "file": file,
            "valid": data == CONTENT,
            "problems": [] if data == CONTENT else ["it is not what was written"],
            "events": 1,
            "size": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
            "adler32": f"{zlib.adler32(data):08x}",
            "uuid": None,
        }
        sys.stdout.write(json.dumps(verdict) + "\n")
    return 0


def main(arguments: Sequence[str]) -> int:
    """Run as ``process --job FILE``, ``validate --json FILE...`` or ``process --serve``."""
    if list(arguments) == ["process", "--serve"]:
        from beamwright.production import runner

        return runner.main(lambda argv: main(argv[argv.index("beamwright.testing.payload") + 1 :]))
    if arguments[0] == "process":
        return process(json.loads(Path(arguments[-1]).read_bytes())["config"])
    return validate(arguments[2:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
