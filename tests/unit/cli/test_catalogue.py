"""The catalogue by command: register, declare, ask, define, freeze, compare, decide."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import pytest
from click.shell_completion import ShellComplete

from beamwright.catalog import registering
from beamwright.cli.main import cli
from beamwright.cli.progress import Progress
from beamwright.core.canonical import sha256_hex
from beamwright.production.workspace import Workspace

Call = Any

DQ = """
name = "dq"
subject = "file"
doc = "what the shift said"
[key.energy]
type = "float"
unit = "GeV"
indexed = true
[key.note]
type = "text"
"""
BEAM = """
name = "beam"
subject = "run"
[key.energy]
type = "float"
required = true
[key.stable]
type = "bool"
"""


def file(n: int, **extra: Any) -> dict[str, Any]:
    digest = sha256_hex(str(n).encode())
    said = {"name": f"mc:f/{n}", "size": n, "sha256": digest, "adler32": digest[:8], "tier": "dst"}
    return said | extra


def collection(n: int, *files: int, **extra: Any) -> dict[str, Any]:
    said = {"name": f"mc:c/{n}", "tier": "dst", "stream": "dst", "series": "B", "first": n, "last": n}
    return said | {"events": 10, "files": [f"mc:f/{f}" for f in files], "release": "24.1"} | extra


def write(path: Path, *records: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    workspace = Workspace.create(tmp_path / "workspace")
    workspace.db.close()
    monkeypatch.chdir(workspace.root)
    return workspace.root


@pytest.fixture
def filled(place: Path, call: Call) -> Path:
    (place / "dq.toml").write_text(DQ)
    assert call("metadata", "declare", "dq.toml").code == 0
    files = [file(n, metadata={"dq": {"energy": n * 1.5}}) for n in range(1, 7)]
    runs = [{"series": "B", "number": n, "state": "closed", "luminosity": 2.0} for n in (1, 2, 3)]
    for noun, records in (
        ("file", files),
        ("run", runs),
        ("collection", [collection(n, n) for n in (1, 2, 3)]),
    ):
        assert call(noun, "register", "--from", write(place / f"{noun}.jsonl", *records)).code == 0
    return place


def test_lists_are_registered_from_files_and_by_single_records(filled: Path, call: Call) -> None:
    again = call("file", "register", "--from", "file.jsonl", "--json")
    assert again.document == {"new": 0, "equal": 6}
    one = call("file", "register", "--record", json.dumps(file(9)))
    assert one.out == "1 file registered, 0 were there alike\n"
    refused = call("file", "register", "--record", json.dumps(file(9, size=5)))
    assert refused.code == 3 and "the command line, line 1: file mc:f/9" in refused.err
    assert call("file", "register").code == call("file", "register", "--from", "gone.jsonl").code == 2
    assert (
        call("run", "register", "--record", "[1]").code == call("run", "register", "--record", "{").code == 2
    )
    dry = call(
        "file", "register", "--dry-run", "--from", write(filled / "x.jsonl", file(10), file(9, size=5))
    )
    assert dry.code == 3 and "would be registered" in dry.out and "mc:f/9" in dry.err
    assert len(call("file", "ls", "--json").rows) == 7


def test_progress_tells_how_many_records_a_list_will_have(
    place: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registering, "BATCH", 10)
    path = write(place / "files.jsonl", *(file(n) for n in range(100, 140)))
    told = list[tuple[int, int | None]]()
    monkeypatch.setattr(Progress, "__call__", lambda self, done, of: told.append((done, of)))
    assert call("file", "register", "--from", path).code == 0
    assert [done for done, _ in told] == [10, 20, 30, 40]
    assert all(of is not None and 38 <= of <= 42 for _, of in told) and told[-1][1] == 40


def test_a_list_comes_through_standard_input(
    place: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    with write(place / "in.jsonl", file(1), file(2)).open() as stream:
        monkeypatch.setattr("sys.stdin", stream)
        assert call("file", "register", "--from", "-", "--json").document == {"new": 2, "equal": 0}


def test_lists_are_asked_in_one_language(filled: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = call("file", "ls", "--where", "dq.energy in 3..5 and name ~ 'f/*'", "--json").rows
    assert [row["did"] for row in rows] == ["mc:f/2", "mc:f/3"]
    assert len(call("file", "ls", "--limit", "2", "--json").rows) == 2
    assert call("run", "ls", "--as-of", "2001-01-01", "--json").rows == []
    assert [r["number"] for r in call("run", "ls", "--where", "run > 1", "--json").rows] == [2, 3]
    monkeypatch.setattr("beamwright.cli.asking.SHOWN", 1)
    for noun in ("run", "file", "collection"):
        first = call(noun, "ls")
        assert len(first.out.splitlines()) == 3
        assert first.err == "there are more than these 1: give --limit, or --json for all\n"
        assert call(noun, "ls", "--limit", "1").err == ""
    rows = call("collection", "ls", "--where", "run in 2..3", "--stream", "dst", "--json").rows
    assert [row["name"] for row in rows] == ["mc:c/2", "mc:c/3"]
    plan = call("file", "ls", "--where", "dq.energy > 5", "--explain", "--json").document
    assert plan["rows"] == 3 and plan["plan"]
    assert "rows in" in call("collection", "ls", "--explain").out


def test_an_error_points_at_its_column(filled: Path, call: Call) -> None:
    wrong = call("file", "ls", "--where", "tier == 'dst' and dq.enrgy > 5")
    lines = wrong.err.splitlines()
    assert wrong.code == 2 and "did you mean dq.energy" in wrong.err
    assert lines[1].strip() == "tier == 'dst' and dq.enrgy > 5"
    assert lines[2].index("^") == lines[1].index("dq.enrgy")
    document = json.loads(call("file", "ls", "--where", "nope == 1", "--json").err)
    assert document["data"]["column"] == 1


def complete(*arguments: str, incomplete: str) -> list[str]:
    shell = ShellComplete(cli, {}, "beamwright", "_BEAMWRIGHT_COMPLETE")
    return [item.value for item in shell.get_completions(list(arguments), incomplete)]


def test_names_are_completed_in_the_shell(filled: Path) -> None:
    assert complete("file", "ls", "--where", incomplete="tier == 'dst' and si") == ["tier == 'dst' and size"]
    assert complete("file", "ls", "--where", incomplete="dq.") == ["dq.energy", "dq.note"]
    assert complete("collection", "ls", "--where", incomplete="quality.g") == ["quality.good("]
    assert complete("dataset", "ls", incomplete="glob") == ["global_tag"]
    assert complete("file", "ls", "--where", incomplete="name == 'si") == []


def test_names_are_completed_without_a_workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert complete("run", "ls", "--where", incomplete="lum") == ["luminosity"]


def test_metadata_are_declared_and_said(filled: Path, call: Call) -> None:
    (filled / "beam.toml").write_text(BEAM)
    assert "would declare beam" in call("metadata", "declare", "beam.toml", "--dry-run").err
    assert {row["kind"] for row in call("metadata", "ls", "--json").rows} == {"dq"}
    assert call("metadata", "declare", "beam.toml", "--json").document["subject"] == "run"
    said = call("metadata", "set", "run", "B/1", "beam", "energy=5.5", "stable=true", "--json")
    assert said.document == {"energy": 5.5, "stable": True}
    assert call("metadata", "set", "run", "B/1", "beam", "stable=", "--json").document == {"energy": 5.5}
    assert call("metadata", "show", "run", "B/1", "--json").document == {"beam": {"energy": 5.5}}
    assert call("metadata", "show", "run", "B/1", "--as-of", "2001-01-01", "--json").document == {}
    assert "beam.energy" in call("metadata", "ls").out
    for wrong in (
        ("run", "B/1", "beam", "energy="),
        ("run", "B/1", "beam", "energy=high"),
        ("run", "B/1", "dq", "a=1"),
    ):
        assert call("metadata", "set", *wrong).code in (2, 4)
    assert call("metadata", "set", "run", "B/9", "beam", "energy=1").code == 2
    (filled / "wrong.toml").write_text("name = ")
    assert call("metadata", "declare", "wrong.toml").code == 2
    assert call("file", "show", "mc:f/1", "--json").document["metadata"] == {"dq": {"energy": 1.5}}


def test_a_dataset_is_defined_frozen_cited_and_compared(filled: Path, call: Call) -> None:
    made = call("dataset", "define", "ana:all", "--where", "tier == 'dst'", "--stream", "dst", "--json")
    assert (made.document["collections"], made.document["events"]) == (3, 30)
    assert call("dataset", "define", "ana:none").code == 2
    dry = call("dataset", "freeze", "ana:all", "--dry-run", "--json")
    assert dry.document["state"] == "frozen"
    frozen = call("dataset", "freeze", "ana:all", "--json").document
    assert frozen["citation"].startswith("ana:all@1 #")
    short = frozen["content_hash"][:10]
    assert call("dataset", "show", f"ana:all#{short}", "--json").document["version"] == 1
    call("dataset", "define", "ana:all", "--where", "tier == 'dst'")
    changed = write(filled / "new.jsonl", collection(1, 4), collection(4, 5))
    refused = call("collection", "register", "--from", changed)
    assert refused.code == 3 and "--supersede" in refused.err
    done = call("collection", "register", "--from", changed, "--supersede", "new constants", "--json")
    assert done.document == {"new": 2, "equal": 0}
    told = call("dataset", "diff", "ana:all@1", "ana:all@2", "--json").document
    assert told["replaced"] == [{"old": "mc:c/1", "new": "mc:c/1.e2"}] and told["added"] == ["mc:c/4"]
    assert call("dataset", "since", "ana:all", "1", "--json").document["added"] == ["mc:c/4"]
    lines = call("dataset", "diff", "ana:all@1", "ana:all@2").out.splitlines()
    assert lines[2].split() == ["added", "1"] and "+ mc:c/4" in lines and any(" events" in x for x in lines)
    assert "+ mc:c/4" in call("dataset", "since", "ana:all", "1").out
    assert len(call("dataset", "since", "ana:all", "2001-01-01", "--json").document["added"]) == 4
    assert (
        call("dataset", "withdraw", "ana:all@1", "--reason", "x", "--json").document["state"] == "withdrawn"
    )
    assert call("dataset", "show", "ana:all", "--as-of", "2001-01-01", "--json").document["collections"] == []
    worth = call("dataset", "show", "ana:all@2", "--luminosity", "--json").document
    assert (worth["total"], worth["complete runs"], worth["unit"]) == (6.0, 3, "/nb")


def test_datasets_are_found_by_what_they_hold(filled: Path, call: Call) -> None:
    call("dataset", "define", "ana:one", "--where", "run == 1")
    call("dataset", "define", "ana:all", "--tier", "dst")
    call("dataset", "freeze", "ana:all")
    expression = "tier == 'dst' and run in 2..3 and not quality.bad('calo') and release ~ '24.*'"
    (row,) = call("dataset", "ls", expression, "--json").rows
    assert (row["did"], row["collections"], row["events"]) == ("ana:all", 2, 20)
    assert [r["did"] for r in call("dataset", "ls", "run == 1", "--json").rows] == ["ana:all", "ana:one"]
    assert [r["did"] for r in call("dataset", "ls", "dataset.state == 'open'", "--json").rows] == ["ana:one"]
    assert len(call("dataset", "ls", "--json").rows) == 2
    assert call("dataset", "ls", "--as-of", "2001-01-01", "--json").rows == []
    assert call("dataset", "ls", "tear == 'x'").code == 2
    assert "rows in" in call("dataset", "ls", "run == 1", "--explain").out


def test_decisions_are_made_by_command(filled: Path, call: Call) -> None:
    assert call("collection", "withdraw", "mc:c/1").code == 2
    assert call("collection", "withdraw", "mc:c/1", "--reason", "noise", "--dry-run").code == 0
    assert call("collection", "withdraw", "mc:c/1", "--reason", "noise", "--json").document["state"] == "bad"
    call("collection", "register", "--record", json.dumps(collection(3, 6, name="mc:better")))
    found = call("collection", "supersede", "mc:c/3", "--by", "mc:better", "--reason", "r", "--json").document
    assert found["successor"] == "mc:better"
    states = {r["name"]: r["state"] for r in call("collection", "ls", "--json").rows}
    assert states == {"mc:c/1": "bad", "mc:c/2": "valid", "mc:c/3": "superseded", "mc:better": "valid"}


def test_lineage_and_impact_are_told_and_drawn(workspace: Workspace, call: Call) -> None:
    name = call("collection", "ls", "--where", "stream == 'good'", "--limit", "1", "--json").rows[0]["name"]
    up = call("lineage", name, "--json").document
    assert {"run", "chunk", "unit", "collection"} <= {node["kind"] for node in up["nodes"]}
    told = call("lineage", name, "--svg", "up.svg")
    assert told.out.startswith(f"collection {name}") and "made from, 1 step away" in told.out
    assert Path("up.svg").read_text().startswith("<svg") and "drawn in up.svg" in told.err
    down = call("impact", "A/1", "--json").document
    assert ["run A/1", *[e[1] for e in down["edges"] if e[0] == "run A/1"][:1]] in down["edges"]
    assert "went into, 1 step away" in call("impact", "A/1").out
    assert "and more: give --most" in call("impact", "A/1", "--most", "1").out
    assert call("impact", "nothing/1").code == 2
    (first, *_) = call("run", "show", "A/1", "--json").document["processing"]
    assert {"farm", "release", "constants", "started", "ended"} <= set(first)


def test_metadata_of_tasks_and_datasets_need_no_new_column(workspace: Workspace, call: Call) -> None:
    for subject, name in (("task", "sample/reco"), ("dataset", "ana:x")):
        kind = f'name = "of_{subject}"\nsubject = "{subject}"\n[key.label]\ntype = "text"\nindexed = true\n'
        Path("kind.toml").write_text(kind)
        assert call("metadata", "declare", "kind.toml").code == 0
        call("dataset", "define", "ana:x", "--stream", "good")
        assert call("metadata", "set", subject, name, f"of_{subject}", "label=prompt").code == 0
    rows = call("collection", "ls", "--where", "of_task.label == 'prompt'", "--json").rows
    assert rows and {row["step"] for row in rows} == {"reco"}
    assert call("dataset", "show", "ana:x", "--json").document["of_dataset"] == {"label": "prompt"}
    assert call("metadata", "show", "dataset", "ana:x@1", "--json").document


def test_every_new_command_explains_itself(call: Call) -> None:
    for path in (
        ("file", "register"),
        ("metadata", "set"),
        ("dataset", "define"),
        ("collection", "supersede"),
    ):
        assert "Usage" in call(*path, "--help").out
    assert isinstance(cli, click.Group)
