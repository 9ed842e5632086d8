"""A whole production of the toy experiment: every event accounted for, the same bytes always."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from beamwright.catalog import datasets
from beamwright.conditions import tags
from beamwright.core.did import Did
from beamwright.core.errors import ProductionFailedError, WorkspaceBusyError
from beamwright.core.settings import DEFAULT_SETTINGS
from beamwright.db import history, schema
from beamwright.event.store import read_metadata
from beamwright.production import closing, tasks
from support import toy_production
from support.toy_production import SPEC, ToyProduction

FAST_NEAR = DEFAULT_SETTINGS.replace("slots = 1\npower = 1.0", "slots = 2\npower = 4.0", 1)
FAST_FAR = "slots = 2\npower = 4.0".join(DEFAULT_SETTINGS.rsplit("slots = 1\npower = 1.0", 1))


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> ToyProduction:
    made = ToyProduction(tmp_path_factory.mktemp("toy"))
    made.produce()
    return made


def test_every_task_is_closed_and_the_tag_is_frozen(done: ToyProduction) -> None:
    assert {row.state for row in done.rows(schema.task)} == {"closed"}
    (tag,) = done.rows(schema.global_tag)
    assert tag.state == "frozen" and len(tag.merkle) == 64


def test_each_stream_is_a_frozen_dataset_of_all_its_collections(done: ToyProduction) -> None:
    with done.workspace.db.read() as conn:
        found = {row.name: datasets.find(conn, Did(row.scope, row.name)) for row in done.rows(schema.dataset)}
        members = {name: datasets.collections(conn, dataset) for name, dataset in found.items()}
    assert {dataset.state for dataset in found.values()} == {"frozen"}
    assert {name: sum(c.events for c in rows) for name, rows in members.items()}["reco.dst"] == 200
    assert len(members["reco.dst"]) == 10 and len(members["merge.dst"]) == 1


def test_every_event_is_in_each_stream_or_filtered(done: ToyProduction) -> None:
    lines = done.rows(schema.ledger)
    assert all(
        line.read + line.created == line.written + line.filtered + line.prescaled + line.quarantined
        for line in lines
    )
    delivered = sum(delivery.records["event"] for delivery in done.given)
    steps = {task.id: task.step for task in done.rows(schema.task)}
    units = {unit.id: steps[unit.task_id] for unit in done.rows(schema.unit)}
    read = sum(line.read for line in lines if units[line.unit_id] == "reco" and line.stream == "dst")
    merged = sum(line.written for line in lines if units[line.unit_id] == "merge" and line.stream == "dst")
    assert read == merged == delivered == 200


def test_each_chunk_starts_from_the_constants_of_the_one_before(done: ToyProduction) -> None:
    links = sorted(done.rows(schema.chain_link), key=lambda row: (row.first_run, row.first_section))
    assert [link.state for link in links] == ["accepted"] * 4
    assert all(one.result == other.start for one, other in zip(links, links[1:], strict=False))
    assert len({link.result["Gain"] for link in links}) == 4


def test_pass_2_of_a_run_starts_while_pass_1_works_on_later_ones(done: ToyProduction) -> None:
    units = {unit.id: unit for unit in done.rows(schema.unit)}
    first = {job.id for job in done.rows(schema.job) if units[job.unit_id].kind == "process"}
    lines = done.rows(schema.history)
    begun = next(
        line.id
        for line in lines
        if line.kind == "job" and int(line.object) in first and line.target == "submitted"
    )
    last = max(line.id for line in lines if line.kind == "chain" and line.target == "collecting")
    assert begun < last


def test_the_second_chunk_comes_after_pass_1_of_the_first_has_begun(done: ToyProduction) -> None:
    chunks = {(chunk.run_id, chunk.sequence): chunk for chunk in done.rows(schema.chunk)}
    links = {link.chunk_id: link for link in done.rows(schema.chain_link)}
    late = next(chunk for (run, sequence), chunk in chunks.items() if sequence == 2)
    early = chunks[late.run_id, 1]
    with done.workspace.db.read() as conn:
        begun = next(e.at for e in history.of(conn, "chain", links[early.id].id) if e.target == "collecting")
    assert begun <= late.created


def test_outputs_carry_the_hash_that_the_frozen_tag_gives(done: ToyProduction) -> None:
    with done.workspace.db.read() as conn:
        plan = tasks.plan(conn, 1)
        assert closing.disagreements(conn, plan) == []
        reco = schema.collection.c.name.startswith("reco.dst/")
        for collection in conn.execute(schema.collection.select().where(reco)):
            path = next(
                r.path for r in done.rows(schema.replica) if r.path.endswith(_file_of(done, collection.id))
            )
            assert collection.resolved_hash
            assert read_metadata(Path(path)).lineage.resolved_hash == collection.resolved_hash
        unit = next(u for u in done.rows(schema.unit) if u.kind == "process" and u.resolved_hash)
        interval = closing.row_interval(unit)
        assert tags.resolve(conn, "toy-real", ["Gain"], interval).hash == unit.resolved_hash


def _file_of(made: ToyProduction, collection_id: int) -> str:
    link = made.rows_of(schema.collection_file, schema.collection_file.c.collection_id == collection_id)[0]
    unit = next(o for o in made.rows(schema.output) if o.file_id == link.file_id)
    stream = next(u for u in made.rows(schema.unit) if u.id == unit.unit_id).definition["streams"][
        unit.stream
    ]
    return str(stream["file"])


@pytest.mark.parametrize(
    ("workers", "settings"),
    [(2, FAST_NEAR), (3, FAST_FAR)],
    ids=["2 workers, near fast", "3 workers, far fast"],
)
def test_other_workers_and_other_farms_give_the_same_bytes(
    done: ToyProduction, tmp_path: Path, workers: int, settings: str
) -> None:
    other = ToyProduction(tmp_path, settings=settings)
    other.produce(workers)
    assert other.collections() == done.collections()


def test_a_finished_production_does_nothing_twice(done: ToyProduction) -> None:
    before, attempts = done.collections(), len(done.rows(schema.attempt))
    done.produce()
    assert done.collections() == before and len(done.rows(schema.attempt)) == attempts


@pytest.mark.parametrize(
    "how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM], ids=["kill", "interrupt", "terminate"]
)
def test_a_production_that_was_stopped_goes_on_to_the_same_end(
    done: ToyProduction, tmp_path: Path, how: signal.Signals
) -> None:
    script = (
        "import sys, time; from pathlib import Path; from support.toy_production import ToyProduction\n"
        "turns = []\n"
        "def tell(n):\n"
        "    turns.append(n)\n"
        "    print(sum(turns), flush=True)\n"
        "    time.sleep(60 if sum(turns) >= 20 else 0)\n"  # the stop must find it under way
        "ToyProduction(Path(sys.argv[1])).produce(on_turn=tell)"
    )
    environment = dict(os.environ) | {"PYTHONPATH": str(Path(toy_production.__file__).parents[1])}
    argv = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(
        argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) >= 20:
                break
        process.send_signal(how)
        process.communicate(timeout=240)
    again = ToyProduction(tmp_path)
    assert {row.state for row in again.rows(schema.task)} != {"closed"}
    again.produce()
    assert again.collections() == done.collections()


def test_a_second_producer_in_the_workspace_is_refused_by_name(done: ToyProduction) -> None:
    with done.workspace.lock(), pytest.raises(WorkspaceBusyError, match=f"in use by process.*{os.getpid()}"):
        done.produce()


def test_a_truncated_raw_file_is_refused_and_nothing_else_is_lost(tmp_path: Path) -> None:
    made = ToyProduction(tmp_path)
    victim = Path(made.given[1].files[0].path)
    whole = victim.read_bytes()
    victim.write_bytes(whole[:100])
    with pytest.raises(ProductionFailedError, match="run A:3 of dataset raw is not delivered"):
        made.produce()
    (reason,) = (made.workspace.root / "inbox" / "rejected").glob("*.reason.json")
    assert "has 100 bytes, not" in json.loads(reason.read_text())["message"]
    victim.write_bytes(whole)
    made.produce()
    assert {row.state for row in made.rows(schema.task)} == {"closed"}


def test_a_file_with_another_checksum_is_refused_at_intake(tmp_path: Path) -> None:
    made = ToyProduction(tmp_path)
    victim = Path(made.given[0].files[0].path)
    victim.write_bytes(victim.read_bytes().replace(b"[", b"{", 1))
    with pytest.raises(ProductionFailedError, match="run A:1 of dataset raw is not delivered"):
        made.produce()
    (reason,) = (made.workspace.root / "inbox" / "rejected").glob("*.reason.json")
    assert json.loads(reason.read_text())["error"] == "checksum"


def test_a_raw_file_that_changed_after_registration_fails_its_jobs_by_class(tmp_path: Path) -> None:
    made = ToyProduction(tmp_path)
    victim = Path(made.given[0].files[0].path)
    whole = victim.read_bytes()

    def spoil(turns: int) -> None:
        if made.rows(schema.chunk):
            victim.write_bytes(whole.replace(b'"A"', b'"B"', 1))

    with pytest.raises(ProductionFailedError, match="is failed: input: .*A-1-1.json"):
        made.produce(on_turn=spoil)
    failed = [row for row in made.rows(schema.attempt) if row.failure_class is not None]
    assert {row.failure_class for row in failed} == {"input"}


def test_announced_records_that_are_not_there_are_told(tmp_path: Path) -> None:
    made = ToyProduction(tmp_path)
    made.given[1] = replace(made.given[1], records={"event": 49, "slice": 6})
    with pytest.raises(ProductionFailedError):
        made.produce()
    (reason,) = (made.workspace.root / "inbox" / "rejected").glob("*.reason.json")
    assert "A:3, chunk 1: 48 event records found, 49 announced" in reason.read_text()


def test_a_poisoned_event_is_quarantined_by_key_and_the_rest_goes_on(tmp_path: Path) -> None:
    made = ToyProduction(
        tmp_path, text=SPEC.replace('path = "reco"', 'path = "trouble"').replace("split = 25\n", "")
    )
    made.produce()
    poisoned = made.rows(schema.quarantine)
    assert {(row.run, row.section, row.event) for row in poisoned} == {(1, 3, 4), (2, 3, 4), (3, 3, 4)}
    assert {row.module for row in poisoned} == {"Trouble"} and "this event is poisoned" in poisoned[
        0
    ].traceback
    merged = [
        row for row in made.rows(schema.collection) if row.stream == "dst" and row.name.startswith("merge")
    ]
    assert [row.events for row in merged] == [197]
