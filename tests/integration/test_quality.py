"""Verdicts of a production: references beside the code, trends, gates, and what may leave the house."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from beamwright.agents.inspector import Inspector
from beamwright.agents.loop import Produce
from beamwright.cli.main import run as command
from beamwright.core.errors import ConfigError, ConflictError, ProductionFailedError, UsageError
from beamwright.db import schema
from beamwright.production.experiment import Experiment
from beamwright.production.explain import explain
from beamwright.production.inspection import check_gates
from beamwright.production.spec import read_spec
from beamwright.quality import verdicts
from support import toy_production
from support.toy_production import RECO, SMALL, ToyProduction, whole_runs

SPEC = SMALL + RECO + 'verdict = ["gain"]\n'
REFERENCES = """
version = 3
[[figure]]
name = "before"
subject = "gain"
step = "pass1"
range = [0.0, 1.1]
"""
WIDER = REFERENCES.replace("3", "4", 1).replace("1.1", "1.4")
BY = {"author": "shifter", "reason": "looked at it"}


def production(root: Path, text: str = REFERENCES) -> tuple[ToyProduction, Experiment]:
    (root / "references.toml").write_text(text)
    given = whole_runs(root, 1, 2)
    experiment = replace(toy_production.experiment, references=(root / "references.toml",))
    return ToyProduction(root, SPEC, given=given), experiment


def produce(toy: ToyProduction, experiment: Experiment) -> None:
    Produce(toy.workspace, read_spec(SPEC, "small"), experiment, 1, list(toy.given), lambda done: None).run()


def units(toy: ToyProduction, step: str) -> list[int]:
    tasks = {row.id: row.step for row in toy.rows(schema.task)}
    return sorted(row.first_run for row in toy.rows(schema.unit) if tasks[row.task_id] == step)


@pytest.fixture(scope="module")
def gated(tmp_path_factory: pytest.TempPathFactory) -> tuple[ToyProduction, Experiment, str]:
    """A production whose second run is bad by pass 1; why it stopped."""
    toy, experiment = production(tmp_path_factory.mktemp("gated"))
    with pytest.raises(ProductionFailedError) as stopped:
        produce(toy, experiment)
    return toy, experiment, str(stopped.value)


def test_pass_two_waits_for_the_verdict_of_pass_one(gated: tuple[ToyProduction, Experiment, str]) -> None:
    toy, _, message = gated
    assert "step reco: run A:2 waits for a good verdict: gain is bad" in message
    assert units(toy, "reco") == [1]
    with toy.workspace.db.read() as conn:
        told = explain(conn, "A/2")
    assert "step reco waits for a good verdict: gain is bad" in told.holds
    assert any("quality set" in step for step in told.next)
    history = {(row.kind, row.object, row.target): row.id for row in toy.rows(schema.history)}
    judged = history["verdict", "A:1/raw/gain", "good"]
    jobs = {row.id: row.unit_id for row in toy.rows(schema.job)}
    tasks = {row.id: row.step for row in toy.rows(schema.task)}
    steps = {row.id: tasks[row.task_id] for row in toy.rows(schema.unit)}
    planned = [
        row.id
        for row in toy.rows(schema.history)
        if row.kind == "job" and row.target == "prepared" and steps[jobs[int(row.object)]] == "reco"
    ]
    assert planned and all(judged < number for number in planned)


def test_a_gate_on_a_misspelt_subject_is_refused_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    toy, experiment = production(tmp_path)
    monkeypatch.setattr("beamwright.production.experiment.load", lambda name: experiment)
    root, file = str(tmp_path / "workspace"), tmp_path / "gate.toml"
    file.write_text(SPEC.replace('verdict = ["gain"]', 'verdict = ["gian"]'))
    for more in (["--dry-run"], []):
        assert command(["produce", str(file), "-w", root, *more]) == 2
        told = capsys.readouterr().err
        assert "waits for a good verdict on 'gian', which nothing of pass 1 judges" in told
        assert "did you mean gain?" in told
    assert toy.rows(schema.production) == []


def test_a_gate_that_only_a_person_opens_is_said_to_be_one(tmp_path: Path) -> None:
    toy, experiment = production(tmp_path, REFERENCES.replace('"pass1"', '"reco"'))
    with toy.workspace.db.begin() as conn:
        (told,) = check_gates(conn, read_spec(SPEC, "small"), experiment)
        assert told == (
            "step 'reco' waits for a good verdict on 'gain', which nothing of pass 1 judges: "
            "a person has to (`beamwright quality set`)"
        )
        verdicts.override(conn, "A", 1, "raw", "gian", "good", now=9.0, **BY)
        assert check_gates(conn, read_spec(SPEC.replace('"gain"', '"gian"'), "small"), experiment) == []
        assert check_gates(conn, read_spec(SMALL, "small"), experiment) == []


def test_wider_limits_beside_the_code_judge_anew(tmp_path: Path) -> None:
    toy, experiment = production(tmp_path)
    with pytest.raises(ProductionFailedError):
        produce(toy, experiment)
    with toy.workspace.db.begin() as conn:
        found = verdicts.put_references(conn, experiment.name, WIDER, "wider.toml", now=9.0, **BY)
        assert (found.version, verdicts.references_of(conn, experiment.name)) == (4, found)
    produce(toy, experiment)
    assert units(toy, "reco") == [1, 2]
    with toy.workspace.db.read() as conn:
        old, new = verdicts.history_of(conn, "A", 2, "raw", "gain")
    assert (old.value, new.value) == ("bad", "good")
    assert old.author.startswith("algorithm v3") and new.author.startswith("algorithm v4")


def test_references_only_go_up_and_need_a_reason(gated: tuple[ToyProduction, Experiment, str]) -> None:
    toy, name = gated[0], "other"
    with toy.workspace.db.begin() as conn:
        verdicts.put_references(conn, name, WIDER, "w.toml", now=9.0, **BY)
        with pytest.raises(ConflictError, match="version 3 of the references of other; 4 stands"):
            verdicts.put_references(conn, name, REFERENCES, "r.toml", now=9.0, **BY)
        with pytest.raises(UsageError, match="reason"):
            verdicts.put_references(conn, name, WIDER, "w.toml", now=9.0, author="x", reason=" ")
        with pytest.raises(ConfigError, match=r"unknown key 'figure\.[a-z0-9]+\.rnage'"):
            verdicts.put_references(conn, name, WIDER.replace("range", "rnage"), "w.toml", now=9.0, **BY)
        assert [row["version"] for row in verdicts.reference_log(conn, name)] == [4]


def test_a_shifter_lets_a_run_pass_with_a_reason_and_algorithms_leave_it(
    gated: tuple[ToyProduction, Experiment, str], capsys: pytest.CaptureFixture[str]
) -> None:
    toy, experiment, _ = gated
    root = str(toy.root / "workspace")

    def call(*words: str) -> tuple[int, str]:
        code = command(["quality", *words, "-w", root])
        return code, capsys.readouterr().out

    assert call("set", "A/2", "gain", "good", "--tier", "raw")[0] == 2  # no reason
    code, _ = call("set", "A/2", "gain", "good", "--tier", "raw", "--reason", "start of run", "--by", "me")
    assert code == 0
    produce(toy, experiment)
    assert units(toy, "reco") == [1, 2]
    with toy.workspace.db.begin() as conn:
        verdicts.put_references(conn, experiment.name, WIDER, "w.toml", now=9.0, **BY)
    inspector = Inspector(toy.workspace, experiment, 1)
    inspector.turn()
    code, out = call("history", "A/2", "gain", "--tier", "raw", "--json")
    assert code == 0 and out.count('"author": "algorithm') == 1 and '"author": "me"' in out
    assert call("good", "gain", "--tier", "raw", "--json")[1].count('"run"') == 2
    assert call("good", "gain", "--tier", "raw", "--as-of", "1999-01-01", "--json")[1] == ""
    assert '"version": 4' in call("references", "ls", "--json")[1]
    assert "range = [0.0, 1.4]" in call("references", "show", experiment.name)[1]


@pytest.mark.parametrize(
    ("place", "hint"),
    [
        (("A/22", "gain", "--tier", "raw"), "did you mean A/2"),
        (("A/2", "gian", "--tier", "raw"), "did you mean gain? (--new begins one)"),
        (("A/2", "gain", "--tier", "rwa"), "did you mean raw? (--new begins one)"),
    ],
)
def test_a_verdict_on_what_is_not_there_is_refused_with_the_nearest(
    gated: tuple[ToyProduction, Experiment, str],
    capsys: pytest.CaptureFixture[str],
    place: tuple[str, ...],
    hint: str,
) -> None:
    where = ["-w", str(gated[0].root / "workspace")]
    run, subject, *tier = place
    assert command(["quality", "set", run, subject, "good", *tier, "--reason", "x", *where]) == 2
    assert hint in capsys.readouterr().err
    assert command(["quality", "history", *place, *where]) == 2
    assert "did you mean A/" in capsys.readouterr().err
    if run == "A/2":
        new = ["--new", "--dry-run", "--reason", "x"]
        assert command(["quality", "set", run, subject, "good", *tier, *new, *where]) == 0


def test_references_of_the_code_are_shown_until_others_are_put(
    gated: tuple[ToyProduction, Experiment, str], capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["-w", str(gated[0].root / "workspace")]
    assert command(["quality", "references", "show", "orca", *where]) == 0
    assert "[[histogram]]" in capsys.readouterr().out
    assert command(["quality", "references", "show", "orca", "--version", "99", *where]) == 2
    assert "valid names: 1" in capsys.readouterr().err


def test_references_are_put_for_an_experiment_that_there_is_and_as_text(
    gated: tuple[ToyProduction, Experiment, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, where = tmp_path / "limits.toml", ["--reason", "x", "-w", str(gated[0].root / "workspace")]
    newest = WIDER.replace("version = 4", "version = 99")  # whatever other tests have put
    file.write_text(newest)
    assert command(["quality", "references", "put", "orac", str(file), "--dry-run", *where]) == 2
    assert "did you mean orca?" in capsys.readouterr().err
    name = "support.toy_production:experiment"
    assert command(["quality", "references", "put", name, str(file), "--dry-run", "--json", *where]) == 0
    assert json.loads(capsys.readouterr().out)["experiment"] == toy_production.experiment.name
    file.write_bytes(newest.encode() + b"# caf\xe9\n")
    assert command(["quality", "references", "put", name, str(file), *where]) == 2
    assert "limits.toml:8: byte 0xe9 is no UTF-8 text" in capsys.readouterr().err


def test_a_trend_is_followed_through_the_verdicts_on_earlier_runs(
    gated: tuple[ToyProduction, Experiment, str],
) -> None:
    trend: Any = verdicts.TrendLimits(name="before", subject="gain", p_value=1e-3)
    with gated[0].workspace.db.read() as conn:
        assert verdicts.past_values(conn, "A", 2, "raw", [trend]) == {("gain", "before", "value"): [(1, 1.0)]}
        assert verdicts.past_values(conn, "A", 1, "raw", [trend]) == {}
        assert verdicts.past_values(conn, "A", 9, "raw", []) == {}


def test_what_nobody_has_judged_does_not_leave_the_house(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pyarrow")
    text = SPEC.replace('verdict = ["gain"]\n', "")
    given = [toy_production.deliver(tmp_path / "raw", run, 1, range(8)) for run in (1, 2)]
    toy = ToyProduction(tmp_path, text, given=given)
    toy.produce()
    name = next(f"{r.scope}:{r.name}" for r in toy.rows(schema.collection) if r.stream == "dst")
    root, out = str(tmp_path / "workspace"), str(tmp_path / "out.parquet")
    arguments = ["collection", "export", name, "-o", out, "-w", root]
    assert command(arguments) != 0
    assert "holds runs without a verdict: A/1" in capsys.readouterr().err
    assert not Path(out).exists()
    why = ["--reason", "looks well", "--tier", "raw", "-w", root]
    assert command(["quality", "set", "A/1", "all", "unknown", *why]) == 0
    assert command(arguments) != 0 and not Path(out).exists()
    assert command(["quality", "set", "A/1", "all", "good", *why]) == 0
    assert command(arguments) == 0 and Path(out).exists()
