"""Runs the tiny production with one process killed at one operation, runs it again, checks the result."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from beamwright import durable, fsck
from beamwright.core import states
from beamwright.db import schema
from beamwright.production.workspace import Workspace
from kill import production, whole
from support.waiting import wait_for

HERE = Path(__file__).resolve().parent
ENDED = {"accepted", "rejected", "superseded", "lost", "killed"}


@dataclass(frozen=True)
class Point:
    """Where to kill: the process that started as so manieth of its role, before one of its operations."""

    role: str
    ordinal: int
    operation: int
    what: str = ""

    def __str__(self) -> str:
        return f"{self.role}:{self.ordinal}:{self.operation}"


class Harness:
    """Makes one workspace per run from a template; all runs are forked from one warm process."""

    def __init__(self, folder: Path, fresh: bool = False, bug: str = "", is_whole: bool = False) -> None:
        self.folder, self.fresh, self.bug, self.is_whole = folder, fresh, bug, is_whole
        self.stride = 1
        folder.mkdir(exist_ok=True)
        self.template = folder / "template"
        (whole if is_whole else production).make(self.template, folder / "raw").db.close()
        self._runs = 0
        path = os.pathsep.join([str(HERE / "instrument"), str(HERE.parent), os.environ.get("PYTHONPATH", "")])
        environment = os.environ | {
            "PYTHONPATH": path,
            "KILL_NOTES": str(folder),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        self._zygote = subprocess.Popen(
            [sys.executable, str(HERE / "zygote.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )

    def __enter__(self) -> Harness:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._zygote.stdin and self._zygote.stdout
        self._zygote.stdin.close()
        self._zygote.stdout.close()
        self._zygote.wait(120)

    def points(self) -> tuple[list[Point], dict[str, str]]:
        """Run undisturbed; return every point at which a process can be killed, and the outputs by name."""
        workspace = self._workspace()
        notes = workspace.parent / "notes"
        exit_code = self._run(workspace, "", counted=True)
        assert exit_code == 0, (workspace.parent / "log").read_text()
        problems = check(workspace, {}, self.is_whole)
        assert not problems, problems
        found = []
        for file in sorted(notes.iterdir()):
            role, _, ordinal = file.name.rpartition(".")
            for number, what in enumerate(file.read_text().splitlines(), 1):
                found.append(Point(role, int(ordinal), number, what))
        outputs = outputs_of(workspace)
        shutil.rmtree(workspace.parent)
        return found, outputs

    def kill(self, point: Point, expected: dict[str, str]) -> tuple[list[str], bool]:
        """Kill at the point, run again, and return what is wrong, and whether the point was reached."""
        workspace = self._workspace()
        notes = workspace.parent / "notes"
        problems = []
        exit_code = self._run(workspace, str(point), counted=True)
        if exit_code not in (0, -9):
            problems.append(f"the killed run ended with {exit_code}")
        exit_code = self._run(workspace, "", counted=False)
        if exit_code != 0:
            problems.append(f"the second run ended with {exit_code}")
        await_end(workspace)
        problems += check(workspace, expected, self.is_whole)
        fired = (notes / "fired").exists()
        if problems:
            problems.append((workspace.parent / "log").read_text()[-3000:])
        else:
            shutil.rmtree(workspace.parent)
        return problems, fired

    def _workspace(self) -> Path:
        self._runs += 1
        folder = self.folder / f"run{self._runs}"
        (folder / "notes").mkdir(parents=True)
        shutil.copytree(self.template, folder / "workspace")
        return folder / "workspace"

    def _run(self, workspace: Path, point: str, counted: bool) -> int:
        environment = {"KILL_NOTES": str(workspace.parent / "notes"), "KILL_POINT": point}
        if not counted:
            (workspace.parent / "notes2").mkdir(exist_ok=True)
            environment = {"KILL_NOTES": str(workspace.parent / "notes2"), "KILL_POINT": "none:0:0"}
        request = {
            "workspace": str(workspace),
            "environment": environment,
            "fresh": self.fresh,
            "bug": self.bug,
        }
        request |= {"log": str(workspace.parent / "log"), "raw": str(self.folder / "raw")}
        request["whole"] = self.is_whole
        assert self._zygote.stdin and self._zygote.stdout
        self._zygote.stdin.write(json.dumps(request) + "\n")
        self._zygote.stdin.flush()
        return int(self._zygote.stdout.readline())


def outputs_of(root: Path) -> dict[str, str]:
    """Return the sha256 of every output by its name."""
    workspace = Workspace.open(root)
    file, output = schema.file, schema.output
    with workspace.db.read() as conn:
        rows = conn.execute(sa.select(file.c.name, file.c.sha256).join(output, output.c.file_id == file.c.id))
        found = {row.name: row.sha256 for row in rows}
    workspace.db.close()
    return found


def await_end(root: Path) -> None:
    """Wait until no process holds a lock of the workspace: wrappers outlive a killed agent by one job."""

    def is_over() -> bool:
        return not any(durable.is_locked(path) for path in root.glob("farms/*/jobs/*/*/lock"))

    wait_for(is_over, what=f"something still works in {root}")


def check(root: Path, expected: dict[str, str], is_whole: bool = False) -> list[str]:
    """Return what is wrong with a finished workspace; ``expected`` are the outputs of an undisturbed one."""
    workspace = Workspace.open(root)
    with workspace.db.read() as conn:
        rows = {t.name: list(conn.execute(sa.select(t))) for t in schema.metadata.sorted_tables}
    violations = [str(violation) for violation in fsck.run(workspace.db, root, deep=is_whole)]
    workspace.db.close()
    problems = violations + [f"job {j.id} is {j.state}" for j in rows["job"] if j.state != "ok"]
    problems += [f"attempt {a.id} is {a.state}" for a in rows["attempt"] if a.state not in ENDED]
    problems += _once(rows) + _history(rows) + _storage(root, rows)
    problems += _whole(rows) if is_whole else _balance(rows)
    found = outputs_of(root)
    if expected and found != expected:
        names = sorted(n for n in found.keys() | expected.keys() if found.get(n) != expected.get(n))
        problems.append(f"other outputs than undisturbed: {names}")
    return problems


def _once(rows: dict[str, list[Any]]) -> list[str]:
    """Each unit has each declared output once, from one accepted attempt; nothing starts after success."""
    problems = []
    accepted = [a.job_id for a in rows["attempt"] if a.state == "accepted"]
    if sorted(accepted) != sorted(j.id for j in rows["job"]):
        problems.append(f"accepted attempts are of jobs {sorted(accepted)}")
    made = sorted((o.unit_id, o.stream) for o in rows["output"])
    declared = sorted((u.id, s) for u in rows["unit"] for s in u.definition["streams"])
    if made != declared:
        problems.append(f"outputs are {made}, declared {declared}")
    attempts = {str(a.id): a.job_id for a in rows["attempt"]}
    done: set[str] = set()
    for entry in rows["history"]:
        if entry.kind == "job" and entry.target == "ok":
            if entry.object in done:
                problems.append(f"job {entry.object} was finished twice")
            done.add(entry.object)
        if entry.kind == "attempt" and entry.target == "leased" and str(attempts[entry.object]) in done:
            problems.append(f"attempt {entry.object} was made for a job that was done")
    return problems


def _history(rows: dict[str, list[Any]]) -> list[str]:
    """Each thing's history is a path through its states that ends in the present one."""
    problems = []
    now = {
        (kind, str(r.id)): r.state for kind in ("job", "attempt", "replica", "collection") for r in rows[kind]
    }
    last: dict[tuple[str, str], str] = {}
    for entry in rows["history"]:
        thing = entry.kind, entry.object
        if thing not in now:
            continue
        if entry.source is not None and (
            last.get(thing) != entry.source or not states.allowed(entry.kind, entry.source, entry.target)
        ):
            problems.append(f"{thing} went from {last.get(thing)} by {entry.source} to {entry.target}")
        last[thing] = entry.target
    problems += [
        f"{thing} is {state}, its history says {last.get(thing)}"
        for thing, state in now.items()
        if last.get(thing) != state
    ]
    return problems


def _balance(rows: dict[str, list[Any]]) -> list[str]:
    """Every event of every raw file is accounted for once per stream."""
    problems = []
    steps = {t.id: t.step for t in rows["task"]}
    units = {u.id: u for u in rows["unit"]}
    totals: dict[tuple[str, str], int] = {}
    for line in rows["ledger"]:
        if line.read != line.written + line.filtered + line.prescaled + line.quarantined:
            problems.append(f"ledger line {line.id} does not balance")
        key = steps[units[line.unit_id].task_id], line.stream
        totals[key] = totals.get(key, 0) + (line.read if key[0] == "pass" else line.written)
    total = production.EVENTS * production.SECTIONS * production.CHUNKS
    written = {
        s: sum(
            r.written for r in rows["ledger"] if r.stream == s and steps[units[r.unit_id].task_id] == "pass"
        )
        for s in ("dst", "skim")
    }
    wanted = {("pass", s): total for s in written} | {("merged", s): written[s] for s in written}
    if totals != wanted:
        problems.append(f"events are {totals}, wanted {wanted}")
    return problems


def _whole(rows: dict[str, list[Any]]) -> list[str]:
    """The chain went on link by link, the tag is frozen, and every event is in the merged collection."""
    problems = [f"task {t.step} is {t.state}" for t in rows["task"] if t.state != "closed"]
    problems += [f"link {link.id} is {link.state}" for link in rows["chain_link"] if link.state != "accepted"]
    problems += [f"tag {tag.name} is {tag.state}" for tag in rows["global_tag"] if tag.state != "frozen"]
    steps = {unit.id: unit.definition["step"] for unit in rows["unit"]}
    merged = sum(o.events for o in rows["output"] if steps[o.unit_id] == "merge")
    if merged != whole.EVENTS or len(rows["chunk"]) != 2:
        problems.append(f"{merged} events of {whole.EVENTS} are merged, from {len(rows['chunk'])} chunks")
    return problems


def _storage(root: Path, rows: dict[str, list[Any]]) -> list[str]:
    """Files are what the catalogue says; nothing else lies about, and no scratch is left."""
    problems = []
    files = {f.id: f for f in rows["file"]}
    known = {}
    for replica in rows["replica"]:
        file, path = files[replica.file_id], Path(replica.path)
        known[path] = file
        if not path.exists() or durable.hash_file(path).sha256 != file.sha256:
            problems.append(f"{path.name} is not what is registered")
    losers = {a.nonce for a in rows["attempt"] if a.state in ("rejected", "superseded", "killed")}
    for path in root.glob("farms/*/store/*/*/*"):
        if path not in known and path.name != "report.json" and path.parent.name not in losers:
            problems.append(f"{path} belongs to nothing")
    problems += [f"{path} was left behind" for path in root.glob("farms/*/scratch/*")]
    return problems
