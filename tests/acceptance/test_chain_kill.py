"""The calibrator killed before each of its statements and commits: constants are stored exactly once.

A chain of four runs rolls in a process of its own: one run is fitted twice until it has converged, two share
an accumulator, one is carried for want of data. The process dies by SIGKILL at one operation on the database;
what is left must be whole, and another process must bring it to the end of an undisturbed one.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from beamwright.conditions import tags
from beamwright.db import schema
from beamwright.production import chain
from beamwright.production.chain import FINAL
from beamwright.production.workspace import Workspace
from support.chain_bench import REPEATED, RUNS, ChainBench, number

pytestmark = pytest.mark.forks

HITS = {1: 30, 2: 5, 3: 30, 4: 5}


class Killer:
    """Counts what the calibrator does to the database, and kills the process before one operation."""

    def __init__(self, bench: ChainBench, target: int) -> None:
        self.count, self.target, self.is_on = 0, target, False
        engine = bench.workspace.db._writer
        sa.event.listen(engine, "before_cursor_execute", self.step)
        sa.event.listen(engine, "commit", self.step)

    def step(self, *_: Any) -> None:
        self.count += self.is_on
        if self.is_on and self.count == self.target:
            os.kill(os.getpid(), signal.SIGKILL)


def roll(root: Path, target: int = 0) -> int:
    """Roll the chain to its end, or to its death; return how many operations that took."""
    bench = ChainBench(root, REPEATED)
    killer = Killer(bench, target)
    for run in RUNS:
        bench.bring(run)
    for _ in range(40):
        bench.clock.sleep(2)
        killer.is_on = True
        bench.calibrator.turn()
        killer.is_on = False
        for unit_id in bench.jobs("collect"):
            link = next(link for link in bench.links() if link.collect_unit_id == unit_id)
            bench.collect(unit_id, HITS[number(link)])
        for unit_id in bench.jobs("fit"):
            link = next(link for link in bench.links() if link.fit_unit_id == unit_id)
            bench.propose(unit_id, "accept", 1 + number(link) / 8 if link.round == 1 else None)
        if all(link.state in FINAL for link in bench.links()):
            break
    bench.workspace.db.close()
    return killer.count


def in_child(work: Callable[[], int]) -> int:
    """Do work in a process of its own; return its exit code, or minus its signal."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = 0 if work() else 2
        except BaseException:  # noqa: BLE001 - the child's last word
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def contents(root: Path) -> dict[str, Any]:
    """Return all that must not depend on where a process died: no times and no row numbers."""
    workspace = Workspace.open(root)
    link, entry, unit, job = schema.chain_link, schema.history, schema.unit, schema.job
    with workspace.db.read() as conn:
        rows = conn.execute(sa.select(link).order_by(link.c.first_run, link.c.generation)).all()
        runs = {str(row.id): row.first_run for row in rows}
        moves = conn.execute(sa.select(entry).where(entry.c.kind == "chain").order_by(entry.c.id))
        units = conn.execute(sa.select(unit, job.c.state).join(job, job.c.unit_id == unit.c.id))
        held = tags.intervals(conn, "gt/Gain")
        names = ("first_run", "state", "round", "start", "result", "proposed", "reason")
        found = {
            "links": [[getattr(row, name) for name in names] for row in rows],
            "moves": [[runs[row.object], row.source, row.target, row.reason] for row in moves],
            "units": sorted([row.kind, row.first_run, row.key, row.state] for row in units),
            "constants": [[str(v.interval), v.payload_id, v.origin, v.added] for v in held],
            "payloads": sorted(conn.execute(sa.select(schema.payload.c.id)).scalars()),
            "swept": [tags.members(conn, "gt", v) for v in range(1, tags.version_of(conn, "gt/Gain") + 1)],
            "accumulated": list(conn.execute(sa.select(schema.chain.c.accumulated)).scalars()),
        }  # fmt: skip
    workspace.db.close()
    return json.loads(json.dumps(found))


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("chain") / "template"
    Workspace.create(root).db.close()
    yield root


def undisturbed(template: Path, folder: Path) -> tuple[dict[str, Any], int]:
    root = folder / "undisturbed"
    shutil.copytree(template, root)
    count = roll(root)
    return contents(root), count


def kill(template: Path, root: Path, target: int) -> tuple[dict[str, Any], bool]:
    """Let a process die at an operation, look at what it left, and let another one end the work."""
    shutil.copytree(template, root)
    code = in_child(lambda: roll(root, target))
    assert code in (0, -signal.SIGKILL)
    bench = ChainBench(root, REPEATED)
    bench.check_accumulator()
    bench.check_work()
    with bench.workspace.db.read() as conn:
        is_begun = conn.execute(sa.select(schema.tag.c.id)).first() is not None
    if is_begun:
        bench.check_constants()
    bench.workspace.db.close()
    assert in_child(lambda: roll(root)) in (0, 2)
    return contents(root), code != 0


@pytest.mark.parametrize("stride", [61, pytest.param(1, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])])
def test_a_calibrator_killed_at_any_operation_stores_constants_once(
    template: Path, tmp_path: Path, stride: int
) -> None:
    expected, count = undisturbed(template, tmp_path)
    assert [link[1] for link in expected["links"]] == ["accepted", "accepted", "accepted", "carried"]
    assert [link[2] for link in expected["links"]] == [2, 2, 2, None]
    assert count > 100
    for target in range(1 + stride // 2, count + 1, stride):
        found, has_fired = kill(template, tmp_path / f"{target}", target)
        assert has_fired and found == expected, f"killed at operation {target} of {count}"


def test_constants_that_are_stored_in_a_transaction_of_their_own_are_found(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the matrix must find: an accumulator that is emptied only in the next transaction."""
    put = chain.set_accumulated
    late: list[Any] = []

    def later(conn: sa.Connection, one: chain.Chain, link_ids: list[int]) -> None:
        late.append((one, link_ids))

    confirm = chain.confirm

    def first(conn: sa.Connection, *more: Any) -> None:
        while late:
            put(conn, *late.pop(0))
        confirm(conn, *more)

    monkeypatch.setattr(chain, "set_accumulated", later)
    monkeypatch.setattr(chain, "confirm", first)
    with pytest.raises(AssertionError):
        for target in range(20, 200, 20):
            kill(template, tmp_path / f"{target}", target)
