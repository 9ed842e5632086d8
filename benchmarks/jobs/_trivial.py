"""The jobs of local.py: what the peers' jobs do, under the full protocol. Each writes one small file.

A job is a shell command, and for warm runners a function of this file; the validation reads the file.
"""

from __future__ import annotations

import json
import shlex
import sys

CONTENT = b"done"
STREAM, FILE, RELEASE = "histograms", "done", "sha256:trivial"
OUTPUT = {"stream": STREAM, "file": FILE, "events": 0, "uuid": None, "kind": "bundle"}
PAYLOAD = json.dumps(
    {"status": "ok", "failure_class": None, "message": "", "release": RELEASE, "resolved_hash": "",
     "ledger": [], "outputs": [OUTPUT], "quarantined": [], "figures": {}, "statistics": {}}
)  # fmt: skip
# Where a runner is asked for, the command becomes one.
SHELL = (
    f'test "$1" = --serve && exec {shlex.quote(sys.executable)} -I -S {shlex.quote(__file__)}; '
    f"printf {CONTENT.decode()} >{FILE} && printf %s {shlex.quote(PAYLOAD)} >payload.json"
)
VALIDATE = [sys.executable, __file__, "validate"]


def perform(argv: list[str]) -> int:
    """Do what a runner is asked for."""
    if "validate" in argv:
        print(json.dumps(verdict(argv[-1])))
        return 0
    for path, data in ((FILE, CONTENT), ("payload.json", PAYLOAD.encode())):
        with open(path, "wb", buffering=0) as stream:
            stream.write(data)
    return 0


def verdict(path: str) -> dict[str, object]:
    """Return what is to be said of a file."""
    import zlib  # jobs are forked from a process without them
    from hashlib import sha256

    with open(path, "rb") as stream:
        data = stream.read()
    content = {"sha256": sha256(data).hexdigest(), "adler32": f"{zlib.adler32(data):08x}", "size": len(data)}
    problems = [] if data == CONTENT else ["it is not what was to be written"]
    return {"file": path, "valid": not problems, "problems": problems, "events": 0, "uuid": None} | content


if __name__ == "__main__":
    sys.path.append(__file__.rpartition("/benchmarks/")[0] + "/src")
    from beamwright.production import runner

    sys.exit(runner.main(perform))
