"""The trivial payload in a mood: it fails as its unit wishes, until something has changed."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "kill"))

import payload

work = payload.process


def process(path: str) -> int:
    """Do the work, unless the unit wishes otherwise."""
    job = json.loads(Path(path).read_bytes())
    return spoil(job, Path(path).with_name("lock")) or int(work(path))


def spoil(job: dict[str, Any], lock: Path) -> int:
    """Do what the unit wishes; return an exit code, or 0 where the work is to be done."""
    wish, number, limits = job["config"].get("wish", ""), job["attempt"]["number"], job["limits"]
    messages = {
        "node": "the disk of this node is broken",
        "licence": "no licence is left",
        "busy": "busy server",
    }
    if wish == "memory" and limits["memory_mb"] < 600:
        hoard = [bytearray(b"x") * (1 << 20) for _ in range(400)]
        time.sleep(600 + len(hoard))
    if wish == "time" and limits["wall_s"] < 30:
        time.sleep(600)
    if wish == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if wish == "vanish" and number == 1:
        os.kill(int(lock.read_text().rpartition(":")[2]), signal.SIGKILL)  # the wrapper
        time.sleep(600)
    if wish in messages and number <= (2 if wish == "busy" else 1):
        document = {"status": "failed", "failure_class": "application_error", "message": messages[wish]}
        payload.answer(job["scratch"], document)
        return 5
    return 0


if __name__ == "__main__":
    payload.process = process
    sys.exit(payload.main(sys.argv[1:]))
