"""A trivial experiment's payload in pure Python: ``process --job``, ``validate --json``, ``process --serve``.

A record is a line ``section event value``. Odd values are filtered; 13 is a poison that is quarantined. What
else a job shall do, mostly wrong, stands in its configuration. Little is imported: the process of a trivial
job is soon there.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import sys
import time
import zlib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

HEADER = b"trivial 1\n"
# What reads a file that begins like this does not survive it.
FELLING = b"fell"
Record = tuple[int, int, int]


def content(path: str) -> bytes:
    with open(path, "rb") as stream:
        return stream.read()


def put(path: str, data: bytes) -> None:
    with open(path, "wb") as stream:
        stream.write(data)


def read(path: str) -> list[Record]:
    data = content(path)
    if not data.startswith(HEADER):
        raise ValueError(f"{path} is no trivial file")
    lines = data[len(HEADER) :].decode().splitlines()
    return sorted(tuple(int(word) for word in line.split()) for line in lines)  # type: ignore[misc]


def encoded(records: list[Record]) -> bytes:
    return HEADER + b"".join(f"{s} {e} {v}\n".encode() for s, e, v in records)


def process(path: str) -> int:
    job = json.loads(content(path))
    scratch = str(job["scratch"])
    wish = job["config"].get("wish", "")
    if wish == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if wish == "sleep":
        put(f"{scratch}/progress.json", b'{"events": 7}')
        print("sleeping", flush=True)
        time.sleep(60)
    if wish == "nap":
        print("napping", flush=True)
        time.sleep(1.0)
    if wish == "wait":
        print("waiting", flush=True)
        while not os.path.exists(f"{scratch}.go"):
            time.sleep(0.02)
    if wish == "eat":
        hoard = [bytearray(1 << 20) for _ in range(400)]
        time.sleep(30 + len(hoard))
    if wish == "daemon" and os.fork() == 0:
        os.setsid()
        time.sleep(60)
        os._exit(0)
    if wish == "fail":
        answer(scratch, {"status": "failed", "failure_class": "application_error", "message": "told to fail"})
        return 5
    if wish == "silent":
        return 0
    if wish == "full":
        answer(scratch, {"status": "failed", "failure_class": "disk", "message": os.strerror(errno.ENOSPC)})
        return 9
    if wish == "flood":
        put(f"{scratch}/flood", bytes(1 << 22))
    document = work(job, scratch)
    twist(document, wish, scratch)
    answer(scratch, document)
    return 3 if wish == "liar" else 0


def work(job: dict[str, Any], scratch: str) -> dict[str, Any]:
    records = sorted(r for item in job["inputs"] for r in read(item["path"]))
    records = [r for r in records if job["interval"][1][1] <= r[0] <= job["interval"][2][1]]
    is_merge = job["kind"] == "merge"
    poison = [] if is_merge else [r for r in records if r[2] == 13]
    kept = records if is_merge else [r for r in records if r[2] % 2 == 0]
    ledger, outputs = [], []
    for stream, declared in job["streams"].items():
        if stream == "histograms":
            put(f"{scratch}/{declared['file']}", b"counts " + str(len(kept)).encode())
            outputs.append(
                {"stream": stream, "file": declared["file"], "events": 0, "uuid": None, "kind": "bundle"}
            )
            continue
        data = encoded(kept)
        put(f"{scratch}/{declared['file']}", data)
        uuid = hashlib.sha256(data).hexdigest()[:32]
        outputs.append(
            {"stream": stream, "file": declared["file"], "events": len(kept), "uuid": uuid, "kind": "rntuple"}
        )
        line = {"record": "event", "stream": stream, "interval": job["interval"], "read": len(records)}
        line |= {"created": 0, "written": len(kept), "prescaled": 0, "quarantined": len(poison)}
        ledger.append(line | {"filtered": len(records) - len(kept) - len(poison)})
    series, run = job["interval"][0], job["interval"][1][0]
    quarantined = [
        {"key": f"{series}:{run}:{s}:{e}", "record": "event", "module": "M", "error": "E", "traceback": "T"}
        for s, e, _ in poison
    ]
    conditions = job["conditions"] or {}
    return {
        "status": "ok",
        "failure_class": None,
        "message": "",
        "release": job["release"],
        "resolved_hash": conditions.get("resolved_hash", ""),
        "ledger": ledger,
        "outputs": outputs,
        "quarantined": quarantined,
        "figures": {"kept": len(kept)},
        "statistics": {},
    }


def twist(document: dict[str, Any], wish: str, scratch: str) -> None:
    """Spoil the work in the way that was asked for."""
    first = document["outputs"][0]
    path = f"{scratch}/{first['file']}"
    if wish == "undeclared":
        document["outputs"].append(first | {"stream": "other"})
    if wish == "missing":
        document["outputs"].pop(0)
    if wish == "few":
        first["events"] += 1
    if wish == "garbage":
        put(path, b"garbage")
    if wish == "fell the reader":
        put(path, FELLING)
    if wish == "outside":
        stray = f"{os.path.dirname(scratch)}/stray"
        os.rename(path, stray)
        os.symlink(stray, path)
    if wish == "nan":
        document["figures"]["width"] = float("nan")
    if wish.startswith("miscount "):
        document["ledger"][0][wish.split()[1]] += 1
    if wish == "release":
        document["release"] = "sha256:another"
    if wish == "conditions":
        document["resolved_hash"] = "another"


def answer(scratch: str, document: dict[str, Any]) -> None:
    put(f"{scratch}/payload.json", json.dumps(document).encode())


def verdict(path: str) -> dict[str, Any]:
    data = content(path)
    if data.startswith(FELLING):
        os.kill(os.getpid(), signal.SIGSEGV)
    is_bundle = data.startswith(b"counts ")
    problems = [] if is_bundle or data.startswith(HEADER) else ["it has no header"]
    return {
        "file": path,
        "valid": not problems,
        "problems": problems,
        "events": 0 if is_bundle or problems else len(read(path)),
        "sha256": hashlib.sha256(data).hexdigest(),
        "adler32": f"{zlib.adler32(data):08x}",
        "size": len(data),
        "uuid": None if is_bundle else hashlib.sha256(data).hexdigest()[:32],
    }


def serve() -> int:
    """Run the real runner with this file in the place of the event framework."""
    from types import ModuleType, SimpleNamespace

    import beamwright.production as package

    members = {
        "work": {
            "run": lambda path: process(str(path)),
            "validate": lambda paths: [verdict(str(path)) for path in paths],
        },
        "experiment": {"load": lambda name: SimpleNamespace(name=name, distributions=(), readers={})},
        "release": {"current": lambda distributions: "sha256:trivial"},
    }
    for name, content in members.items():
        module = ModuleType(f"{package.__name__}.{name}")
        vars(module).update(content)
        sys.modules[module.__name__] = module
        setattr(package, name, module)
    from beamwright.production import runner

    return runner.main()


def main(argv: list[str]) -> int:
    if argv == ["process", "--serve"]:
        return serve()
    if argv[:2] == ["process", "--job"]:
        return process(argv[2])
    verdicts = [verdict(name) for name in argv[2:]]
    for found in verdicts:
        print(json.dumps(found))
    return 0 if all(v["valid"] for v in verdicts) else 4


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
