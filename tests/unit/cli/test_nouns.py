"""Every noun lists and shows what the workspace holds, as text and as JSON."""

from __future__ import annotations

import json
import shlex

import pytest

from beamwright.production.workspace import Workspace
from support.sample_production import digest

COUNTS = {
    "run ls": 3,
    "run ls --where 'run in 2..7 and is_mc'": 1,
    "collection ls": 9,
    "collection ls --where \"stream == 'good' and not is_mc\"": 4,
    "collection ls --stream good --tier dst": 5,
    "collection ls --production other": 0,
    "task ls": 4,
    "job ls": 12,
    "job ls --step reco --state ok": 4,
    "conditions ls": 1,
    "conditions ls --global": 1,
    "calibration show": 3,
    "calibration show pass1 --series A": 3,
    "quality ls": 2,
    "production ls": 1,
    "file ls": 16,
    "file ls --kind raw": 4,
    "file ls --where \"kind == 'raw' and size > 10001\"": 2,
    "dataset ls": 0,
}


@pytest.mark.parametrize(("command", "count"), COUNTS.items())
def test_list_has_a_json_line_per_row_and_a_text_line_per_row(
    call, workspace: Workspace, command: str, count: int
) -> None:
    words = shlex.split(command)
    assert len(call(*words, "--json").rows) == count
    shown = call(*words)
    assert shown.code == 0
    table, _, _ = shown.out.partition("\n\n")  # how constants move stands below the chains
    assert len(table.splitlines()) == (count + 2 if count else 0)
    assert "\x1b" not in shown.out


@pytest.mark.parametrize(
    ("command", "path", "value"),
    [
        ("run show A/2", ["chunks", 1, "first_section"], 50),
        ("run show A/2", ["verdicts", 0, "value"], "bad"),
        ("collection show sample:merged/good.A", ["events"], 205),
        ("collection show sample:merged", ["stream"], "good"),
        ("task show sample/reco", ["ledger", 0, "quarantined"], 2),
        ("conditions show Scale", ["intervals", 2, "origin"], "carried"),
        ("conditions show open-A", ["members", 0, "tag"], "Scale"),
        ("production show sample", ["grid", "rows", 0, "cells", "reco", "state"], "ok"),
        ("quality show A/1", ["verdicts", 0, "checks", 0, "name"], "width"),
        (
            "file show sample:merged/good.A.root",
            ["parents"],
            [f"sample:skim/good.{n}.root" for n in (10, 11, 12)],
        ),
    ],
)
def test_show_gives_one_document(call, workspace: Workspace, command: str, path: list, value: object) -> None:
    document = call(*command.split(), "--json").document
    for step in path:
        document = document[step]
    assert document == value
    text = call(*command.split())
    assert text.code == 0
    assert len(text.out.splitlines()) > 2


def test_job_is_named_by_the_beginning_of_its_unit(call, workspace: Workspace) -> None:
    key = digest("unit reco 0")
    document = call("job", "show", key[:10], "--json").document
    assert document["unit"] == key
    assert document["attempts"][0]["state"] == "accepted"
    assert [event["target"] for event in document["history"]] == ["prepared", "ok"]


def test_job_log_is_what_the_attempt_wrote(call, workspace: Workspace) -> None:
    key = digest("unit reco 0")
    directory = workspace.root / "farms" / "jobs" / key[:12]
    directory.mkdir(parents=True)
    (directory / "log").write_text("first line\nsecond line\n")
    assert call("job", "log", key[:12]).out == "first line\nsecond line\n"
    told = json.loads(call("job", "log", key[:12], "--json").out)
    assert told["lines"] == ["first line", "second line"] and told["unit"].startswith(key[:12])
    assert call("job", "log", key[:12], "--where").out == f"{directory / 'log'}\n"
    assert (
        "did you mean" in call("job", "log", key[:12], "--attempt", 7).err
        or call("job", "log", key[:12], "--attempt", 7).code
    )


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("run show A2", "write SERIES/NUMBER"),
        ("run show A/9", "did you mean A/"),
        ("collection show sample:mergde/good.A", "did you mean sample:merged/good.A"),
        ("collection show sample:", "write more of the name"),
        ("task show sample/rceo", "did you mean sample/reco"),
        ("calibration show pas1", "did you mean pass1"),
        ("conditions show Scael", "did you mean Scale"),
        ("file show nowhere.root", "there is no file nowhere.root"),
    ],
)
def test_unknown_name_suggests_the_nearest(call, workspace: Workspace, command: str, said: str) -> None:
    result = call(*command.split())
    assert result.code == 2
    assert said in result.err


def test_report_is_written_where_it_is_wanted(call, workspace: Workspace, tmp_path, monkeypatch) -> None:
    import beamwright.cli.report as module

    monkeypatch.setattr(module, "_figures", lambda conn, row: [])
    path = tmp_path / "report.html"
    result = call("report", "sample", "-o", path)
    assert result.out == f"{path}\n"
    assert path.read_text().startswith("<!doctype html>")
    document = call("report", "sample", "--json").document
    assert json.dumps(document["summary"]["units"]) == "12"


def test_a_wrong_condition_points_at_its_column(call, workspace: Workspace) -> None:
    shown = call("collection", "ls", "--where", "tier == 'dst' and rum == 3")
    assert shown.code == 2
    assert "column 19" in shown.err and "did you mean run" in shown.err
