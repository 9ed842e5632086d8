"""What follows each failure on a real batch system: by its class, its message, and a person's decision."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from beamwright.agents.importer import Importer
from beamwright.agents.submitter import Submitter
from beamwright.agents.tracker import Tracker
from beamwright.batch import slurm
from beamwright.cli.main import run as beamwright
from beamwright.db import schema
from beamwright.production.workspace import Workspace
from kill import production
from support.slurm import missing, running

MOODY = Path(__file__).parents[1] / "support" / "moody.py"
COMMANDS = {name: [sys.executable, str(MOODY), name] for name in ("process", "validate")}
SETTINGS = """\
format = 1
[limits]
heartbeat_s = 0.5
[farm.cluster]
scheduler = "slurm"
slots = 8
poll_s = 0.2
"""
RULES = [
    {"failure": "memory", "action": "more", "factor": 3.0, "delay_s": 0},
    {"failure": "time", "action": "more", "factor": 10.0, "delay_s": 0},
    {"failure": "application_crash", "action": "never"},
    {"message": "disk of this node", "action": "exclude", "delay_s": 0},
    {"message": "licen[cs]e", "action": "hold"},
    {"message": "^busy", "action": "retry", "times": 2, "delay_s": 0},
]
# What each unit wishes, in which classes its attempts fail, and what becomes of its job.
FATES: dict[str, tuple[list[str | None], str]] = {
    "": ([None], "ok"),
    "memory": (["memory", None], "ok"),
    "time": (["time", None], "ok"),
    "node": (["application_error", None], "ok"),
    "licence": (["application_error"], "held"),
    "busy": (["application_error", "application_error", None], "ok"),
    "crash": (["application_crash"], "failed"),
    "vanish": (["lost", None], "ok"),
}
LIMITS = {"memory": {"memory_mb": 300}, "time": {"wall_s": 6.0}}

pytestmark = pytest.mark.skipif(bool(missing()), reason="Slurm is not installed")


class Cluster:
    """A workspace whose one farm is a real Slurm, and its agents."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        scheduler = slurm.make(workspace, "cluster", workspace.settings.farm["cluster"])
        farms = {"cluster": scheduler}
        self.agents = (Submitter(workspace, farms, COMMANDS), Tracker(workspace, farms), Importer(workspace))

    def settle(self) -> None:
        """Work until nothing is under way."""
        limit = time.monotonic() + 300
        while any(job.state in ("prepared", "submitted", "running") for job in self.rows(schema.job)):
            assert time.monotonic() < limit, [job.state for job in self.rows(schema.job)]
            if not sum(agent.turn() for agent in self.agents):
                time.sleep(0.05)

    def rows(self, table: sa.Table) -> list[Any]:
        with self.workspace.db.read() as conn:
            return list(conn.execute(sa.select(table).order_by(table.c.id)))

    def fate(self, wish: str) -> tuple[Any, list[Any]]:
        """Return the job of a wish, and the attempts at it."""
        (unit,) = (u for u in self.rows(schema.unit) if u.definition["config"]["wish"] == wish)
        (job,) = (j for j in self.rows(schema.job) if j.unit_id == unit.id)
        return job, [a for a in self.rows(schema.attempt) if a.job_id == job.id]

    def key(self, wish: str) -> str:
        job, _ = self.fate(wish)
        return next(str(u.key) for u in self.rows(schema.unit) if u.id == job.unit_id)[:12]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    root = tmp_path_factory.mktemp("rules")
    with pytest.MonkeyPatch.context() as patch, running(root / "slurm"):
        patch.setattr(production, "SETTINGS", SETTINGS)
        patch.setattr(production, "CHUNKS", len(FATES) * production.UNIT // production.SECTIONS)
        workspace = production.make(root / "workspace")
        wishing(workspace)
        made = Cluster(workspace)
        made.settle()
        yield made
        workspace.db.close()


def wishing(workspace: Workspace) -> None:
    """Give each unit its wish and its limits, and the task its rules."""
    unit, task = schema.unit, schema.task
    with workspace.db.begin() as conn:
        rows = conn.execute(sa.select(unit).order_by(unit.c.id)).all()
        for row, wish in zip(rows, FATES, strict=True):
            limits = row.definition["limits"] | LIMITS.get(wish, {})
            changed = row.definition | {"config": {"wish": wish}, "limits": limits}
            conn.execute(sa.update(unit).where(unit.c.id == row.id).values(definition=changed))
        conn.execute(sa.update(task).where(task.c.step == "pass").values(config={"step": {"retry": RULES}}))


def told(cluster: Cluster, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    assert beamwright([*words, "--workspace", str(cluster.workspace.root)]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("wish", list(FATES))
def test_each_failure_has_the_consequence_that_its_rule_says(wish: str, cluster: Cluster) -> None:
    job, attempts = cluster.fate(wish)
    classes, state = FATES[wish]
    assert [a.failure_class for a in attempts[: len(classes)]] == classes
    assert job.state in ((state, "ok") if wish == "licence" else (state,))  # a person may have let it go on
    assert all(a.host in ("n1", "n2") and "_" in a.batch_id for a in attempts)


def test_more_memory_and_time_are_given_and_asked_for(cluster: Cluster) -> None:
    job, attempts = cluster.fate("memory")
    asked = [
        json.loads((cluster.workspace.root / a.directory / "job.json").read_bytes())["limits"]
        for a in attempts
    ]
    assert [limits["memory_mb"] for limits in asked] == [300, 900] and job.memory_mb == 900
    assert "the memory limit of 300 MB was reached" in attempts[0].message
    job, attempts = cluster.fate("time")
    assert job.wall_s == 60.0 and "the wall time limit of 6 s was reached" in attempts[0].message


def test_a_broken_node_is_avoided(cluster: Cluster) -> None:
    job, (first, second) = cluster.fate("node")
    assert job.avoid == [first.host] and {first.host, second.host} == {"n1", "n2"}


def test_failures_are_counted_by_node_and_explained(
    cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = told(cluster, capsys, "task", "failures", "p/pass", "--by", "node", "--json").splitlines()
    counted = [json.loads(line) for line in lines]
    assert sum(row["attempts"] for row in counted if row["failure"] == "application_crash") == 1
    assert {row["node"] for row in counted} <= {"n1", "n2"} and {row["farm"] for row in counted} == {
        "cluster"
    }
    assert "killed by SIGSEGV" in told(cluster, capsys, "explain", cluster.key("crash"))
    assert "vanished without a report" in told(cluster, capsys, "explain", cluster.key("vanish"))


def test_what_a_rule_has_held_a_person_lets_go_on(
    cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    key = cluster.key("licence")
    assert "no licence is left" in told(cluster, capsys, "explain", key)
    told(cluster, capsys, "job", "release", key, "--reason", "there is a licence again")
    cluster.settle()
    job, attempts = cluster.fate("licence")
    assert (job.state, [a.failure_class for a in attempts]) == ("ok", ["application_error", None])


def test_an_attempt_on_slurm_is_run_again_here(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (
        "job",
        "rerun",
        cluster.key("busy"),
        "--attempt",
        "3",
        "--here",
        str(tmp_path / "here"),
        "--json",
    )
    document = json.loads(told(cluster, capsys, *words))
    assert document["valid"] is True and set(document["outputs"].values()) == {"equal"}
    assert len(document["outputs"]) == 3
