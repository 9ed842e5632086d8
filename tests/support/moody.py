"""The trivial payload in a mood: it fails as its unit wishes, until something has changed."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "kill"))

import payload


def spoil(job: dict[str, object], scratch: str) -> int:
    """Do what the unit wishes; return an exit code, or 0 where the work is to be done."""
    wish = dict(job["config"]).get("wish", "")  # type: ignore[call-overload]
    number = dict(job["attempt"])["number"]  # type: ignore[call-overload]
    limits = dict(job["limits"])  # type: ignore[call-overload]
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
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(600)
    if wish in messages and number <= (2 if wish == "busy" else 1):
        document = {"status": "failed", "failure_class": "application_error", "message": messages[wish]}
        payload.answer(scratch, document)
        return 5
    return 0


def main(argv: list[str]) -> int:
    if argv[:2] == ["process", "--job"]:
        job = json.loads(Path(argv[2]).read_bytes())
        if failed := spoil(job, job["scratch"]):
            return failed
    return int(payload.main(argv))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
