"""Jobs that fail: shown, counted, explained, run again by hand, and moved by a person's decision."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from beamwright.batch import wrapper
from beamwright.batch.children import Fresh
from beamwright.catalog import ledger
from beamwright.db import history, schema
from beamwright.production import importing, jobs
from beamwright.production.workspace import Workspace
from kill.production import COMMANDS, EVENTS, UNIT, make

STATES = [{"name": "parked", "stands_for": "held"}, {"name": "hopeless", "stands_for": "excluded"}]
RULES = {"step": {"retry": [{"action": "never"}], "state": STATES}}


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A workspace of two units; the job of the first has failed."""
    workspace = make(tmp_path / "workspace")
    with workspace.db.begin() as conn:
        unit = conn.execute(sa.select(schema.unit).where(schema.unit.c.id == 1)).one()
        wish = unit.definition | {"config": {"wish": "fail"}}
        conn.execute(sa.update(schema.unit).where(schema.unit.c.id == 1).values(definition=wish))
        conn.execute(sa.update(schema.task).where(schema.task.c.id == 1).values(config=RULES))
    attempt(workspace, 1)
    monkeypatch.chdir(workspace.root)
    yield workspace
    workspace.db.close()


def attempt(workspace: Workspace, job_id: int) -> str:
    with workspace.db.begin() as conn:
        (made,) = jobs.lease(conn, workspace, [(job_id, "near")], workspace.clock.now(), COMMANDS)
    jobs.write_job_directory(made, workspace.secret)
    wrapper.run_job(made.places.job, lambda job: Fresh(), wrapper.Stop())
    return importing.import_report(workspace, made.places.report).result


def key(workspace: Workspace, number: int = 1) -> str:
    with workspace.db.read() as conn:
        return str(conn.execute(sa.select(schema.unit.c.key).where(schema.unit.c.id == number)).scalar())[:12]


def state(workspace: Workspace, job_id: int = 1) -> str:
    with workspace.db.read() as conn:
        return str(conn.execute(sa.select(schema.job.c.state).where(schema.job.c.id == job_id)).scalar())


def last(workspace: Workspace, kind: str = "job") -> history.Entry:
    with workspace.db.read() as conn:
        return history.of(conn, kind, 1)[-1]


def test_a_task_shows_states_failures_messages_and_rates(call, workspace: Workspace) -> None:
    assert attempt(workspace, 2) == "accepted"
    found = call("task", "show", "p/pass", "--json").document
    assert found["states"] == {"failed": 1, "ok": 1} and found["failures"] == {"application_error": 1}
    (message,) = found["messages"]
    assert message == {"failure": "application_error", "message": "told to fail", "attempts": 1}
    assert found["jobs_per_s"] > 0 and found["left"] == 0 and found["end_in_s"] is None
    assert 0 < found["cpu_efficiency"] <= 1.5
    (made,) = found["composition"]
    assert made["release"] == "sha256:trivial" and made["collections"] == 2
    assert "units" not in found
    assert len(call("task", "show", "p/pass", "--units", "--json").document["units"]) == 2


def test_a_task_is_shown_as_people_ask_of_it(call, workspace: Workspace) -> None:
    assert attempt(workspace, 2) == "accepted"
    lines = call("task", "show", "p/pass").out.splitlines()
    assert lines[0].split() == ["task", "p/pass"]
    assert "jobs           all 2, failed 1, ok 1" in lines and "left           0 jobs" in lines
    assert any(line.startswith("CPU") and "% of the wall time" in line for line in lines)
    assert not any("split_mb" in line or "target_mb" in line for line in lines)  # only what its file says


def test_a_list_of_jobs_refuses_what_no_job_can_be(call, workspace: Workspace) -> None:
    wrong = call("job", "ls", "--state", "faild")
    assert wrong.code == 2 and "did you mean failed?" in wrong.err
    assert "no step is called 'paas'" in call("job", "ls", "--step", "paas").err
    assert len(call("job", "ls", "--state", "failed", "--step", "pass", "--json").rows) == 1
    assert key(workspace) in call("job", "show", "ffff").err  # the names by which jobs are called, in short
    with workspace.db.begin() as conn:
        conn.execute(sa.update(schema.task).values(state="closed"))
    closed = call("task", "hold", "p/pass", "--reason", "x").err
    assert "task p/pass is closed, and only one that is active can be held" in closed


@pytest.mark.parametrize(
    ("by", "members"), [("class", set()), ("farm", {"farm"}), ("node", {"farm", "node"})]
)
def test_failures_are_counted_by_class_farm_and_node(
    call, workspace: Workspace, by: str, members: set[str]
) -> None:
    attempt(workspace, 2)
    (row,) = call("task", "failures", "--by", by, "--json").rows
    assert row["failure"] == "application_error" and row["attempts"] == 1 and row["share"] == 0.5
    assert members | {"task", "failure", "attempts", "share", "meaning"} == set(row)
    assert "50.00 %" in call("task", "failures", "p/pass", "--by", by).out
    assert "did you mean p/pass" in call("task", "failures", "p/paas").err


def test_top_shows_tasks_and_farms_once(call, workspace: Workspace) -> None:
    found = call("top", "--once", "--json").document
    assert {farm["farm"] for farm in found["farms"]} == {"near", "far"}
    assert [task["states"] for task in found["tasks"]][0] == {"failed": 1, "prepared": 1}
    shown = call("top", "--once").out
    assert "p/pass" in shown and "near" in shown


def test_top_is_drawn_live_with_rich(workspace: Workspace) -> None:
    from rich.console import Console

    from beamwright.cli.top import drawn, look

    console = Console(width=120, record=True, file=io.StringIO())
    console.print(drawn(look(workspace)))
    assert "p/pass" in console.export_text()


def test_a_failed_job_is_explained_with_what_to_do(call, workspace: Workspace) -> None:
    told = call("explain", key(workspace)).out
    assert "told to fail" in told and "job rerun" in told and "job retry" in told and "mend the code" in told


def test_the_files_of_a_job(call, workspace: Workspace) -> None:
    attempt(workspace, 2)
    rows = call("job", "files", key(workspace, 2), "--json").rows
    assert [row["name"] for row in rows if row["role"] == "input"] == ["raw:chunk0"]
    assert len([row for row in rows if row["role"] == "output"]) == 3
    names = {row["name"] for row in rows if row["role"] == "attempt 1"}
    assert {"job.json", "log"} <= names and "ticket" not in names


def test_an_attempt_is_run_again_by_hand_and_counts_nowhere(call, workspace: Workspace) -> None:
    attempt(workspace, 2)
    before = set(workspace.root.rglob("*"))
    again = call("job", "rerun", key(workspace, 2), "--here", "again", "--json")
    assert again.code == 0 and again.document["valid"] is True
    assert set(again.document["outputs"].values()) == {"equal"} and len(again.document["outputs"]) == 3
    new = {path.relative_to(workspace.root).parts[0] for path in set(workspace.root.rglob("*")) - before}
    assert new <= {"again", "beamwright.db-wal", "beamwright.db-shm"}
    written = next(path for path in (workspace.root / "again").iterdir() if ".dst." in path.name)
    (stored,) = workspace.root.glob(f"farms/near/store/*/*/{written.name}")
    assert stored.read_bytes() == written.read_bytes()
    assert call("job", "rerun", key(workspace, 2), "--here", "again").code == 3
    failed = call("job", "rerun", key(workspace), "--here", "failed", "--json")
    assert failed.code == 5 and failed.document["exit_code"] == 5


def test_a_shell_opens_where_an_attempt_would_run(
    call, workspace: Workspace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    attempt(workspace, 2)
    shell = tmp_path / "shell"
    shell.write_text("#!/bin/sh\npwd >where\necho $TMPDIR $SECRET_OF_THE_TERMINAL >>where\nexit 3\n")
    shell.chmod(0o755)
    monkeypatch.setenv("SHELL", str(shell))
    monkeypatch.setenv("SECRET_OF_THE_TERMINAL", "x")  # no job at the farm has it
    opened = call("job", "rerun", key(workspace, 2), "--here", "there", "--shell")
    folder = workspace.root / "there"
    assert opened.code == 3
    assert (folder / "where").read_text().split() == [str(folder), str(folder)]
    assert f"--job {folder / 'job.json'}" in opened.err


@pytest.mark.parametrize(
    ("verb", "more", "target"),
    [("hold", (), "held"), ("hold", ("--as", "parked"), "held"), ("cancel", (), "cancelled"),
     ("retry", (), "prepared"), ("ignore", (), "excluded")],
)  # fmt: skip
def test_a_person_moves_a_job_and_the_history_says_who_and_why(
    call, workspace: Workspace, verb: str, more: tuple[str, ...], target: str
) -> None:
    words = ("job", verb, key(workspace), "--reason", "the pump is off", "--by", "Ada", *more)
    assert call(*words, "--dry-run").code == 0 and state(workspace) == "failed"
    assert call(*words, "--json").rows[0]["was"] == "failed"
    assert state(workspace) == target
    line = last(workspace)
    assert (line.target, line.actor, line.reason) == (target, "Ada", "the pump is off")
    shown = call("job", "show", key(workspace), "--json").document
    assert shown["state"] == (more[1] if more else target)


def test_a_job_is_moved_into_a_state_of_its_task_s_own(call, workspace: Workspace) -> None:
    words = ("job", "ignore", key(workspace), "--reason", "no pulse", "--by", "Ada", "--as")
    assert "stands for held" in call(*words, "parked").err and "hopeless" in call(*words, "hopless").err
    assert call(*words, "hopeless").code == 0 and state(workspace) == "excluded"
    assert [row["state"] for row in call("job", "ls", "--state", "hopeless", "--json").rows] == ["hopeless"]
    assert call("task", "show", "p/pass", "--json").document["states"] == {"hopeless": 1, "prepared": 1}


def test_held_jobs_are_released_and_cancelled_ones_planned_again(call, workspace: Workspace) -> None:
    call("job", "hold", key(workspace), "--reason", "r", "--as", "parked")
    assert call("job", "release", key(workspace), "--reason", "r").code == 0
    assert state(workspace) == "prepared"
    assert call("job", "show", key(workspace), "--json").document["state"] == "prepared"
    call("job", "cancel", key(workspace), "--reason", "r")
    call("job", "retry", key(workspace), "--reason", "r")
    assert state(workspace) == "superseded"


def test_what_cannot_be_done_is_refused_with_the_reason(call, workspace: Workspace) -> None:
    attempt(workspace, 2)
    wrong = call("job", "ignore", key(workspace, 2), "--reason", "r")
    assert wrong.code == 3 and "is ok, and only one that is failed" in wrong.err
    label = call("job", "hold", key(workspace), "--reason", "r", "--as", "praked")
    assert label.code == 2 and "did you mean parked" in label.err
    assert call("job", "hold", key(workspace)).code == 2
    assert (
        "did you mean memory" in call("task", "retry", "p/pass", "--reason", "r", "--failure", "memmory").err
    )
    assert state(workspace) == "failed"


def test_a_task_is_held_and_released(call, workspace: Workspace) -> None:
    assert call("task", "hold", "p/pass", "--reason", "r").code == 0
    with workspace.db.read() as conn:
        assert jobs.has_prepared(conn, 1e12) and not jobs.prepared(conn, 1e12, 5)
    assert call("task", "hold", "p/pass", "--reason", "r").code == 3
    assert call("task", "release", "p/pass", "--reason", "r").code == 0
    with workspace.db.read() as conn:
        assert jobs.prepared(conn, 1e12, 5)


def test_all_jobs_of_a_task_that_failed_in_a_class_are_tried_again(call, workspace: Workspace) -> None:
    assert call("task", "retry", "p/pass", "--failure", "memory", "--reason", "r", "--json").rows == []
    assert (
        len(call("task", "retry", "p/pass", "--failure", "application_error", "--reason", "r", "--json").rows)
        == 1
    )
    assert state(workspace) == "prepared"


def test_what_is_ignored_is_accounted_for_and_what_is_cancelled_is_not(call, workspace: Workspace) -> None:
    attempt(workspace, 2)
    with workspace.db.begin() as conn:
        both = {"chunk_id": 1, "collection_id": None, "position": 0}
        conn.execute(sa.insert(schema.unit_input), [both | {"unit_id": n} for n in (1, 2)])
        conn.execute(sa.update(schema.chunk).values(records={"event": 2 * UNIT * EVENTS}))
        assert "12 of 24" in str(ledger.imbalances(conn, 1)) or ledger.imbalances(conn, 1)
    call("job", "cancel", key(workspace), "--reason", "r")
    with workspace.db.read() as conn:
        assert any("has no line" in problem for problem in ledger.imbalances(conn, 1))
    with workspace.db.begin() as conn:
        conn.execute(sa.update(schema.job).where(schema.job.c.id == 1).values(state="failed"))
    call("job", "ignore", key(workspace), "--reason", "known hole", "--by", "Ada")
    with workspace.db.read() as conn:
        assert ledger.imbalances(conn, 1) == []
        assert json.loads(json.dumps(history.of(conn, "job", 1)[-1].actor)) == "Ada"
