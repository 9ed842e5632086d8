"""Lineage both ways over a small world, and its picture."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from beamwright.catalog import datasets
from beamwright.catalog.constants import Constants
from beamwright.catalog.lineage import Direction, Graph, trace
from beamwright.catalog.processing import processing
from beamwright.catalog.worth import worth
from beamwright.conditions import tags
from beamwright.core.did import Did
from beamwright.core.runs import Interval
from beamwright.db import bulk, history, schema
from beamwright.db.engine import Database
from beamwright.production.explain import explain, resolve
from beamwright.report.graph import condensed, layered, picture
from support.world import RELEASE, World


@pytest.fixture
def world(database: Database, tmp_path: Path) -> World:
    return World(database, tmp_path).build()


def traced(conn: sa.Connection, name: str, direction: Direction) -> Graph:
    found = resolve(conn, name)
    return trace(conn, (found.kind, found.id), direction)


def payload_of(conn: sa.Connection, run: int) -> str:
    (piece,) = tags.resolve(conn, "g", ["Scale"], Interval.sections("A", run, 0, 9)).pieces
    return piece[2]


def names(graph: Graph, kind: str) -> list[str]:
    return sorted(node.name for node in graph.nodes.values() if node.kind == kind)


def test_a_collection_leads_up_to_runs_and_constants(world: World) -> None:
    with world.db.read() as conn:
        graph = traced(conn, "p:merged/dst", "ancestors")
        constants = sorted(payload_of(conn, run)[:16] for run in (1, 2))
    assert names(graph, "collection") == ["p:merged/dst", "p:reco/dst.1", "p:reco/dst.2"]
    assert names(graph, "run") == ["A/1", "A/2"]
    assert names(graph, "file") == ["raw:A/1/run1.raw", "raw:A/2/run2.raw"]
    assert names(graph, "payload") == constants
    assert graph.counts() == {"chunk": 2, "collection": 2, "file": 2, "payload": 2, "run": 2, "unit": 3}
    assert max(graph.distance.values()) == 6
    document = graph.document()
    assert document["of"] == "collection p:merged/dst"
    assert ["run A/1", "file raw:A/1/run1.raw"] in document["edges"]


@pytest.mark.parametrize("of", ["A/1", "raw:A/1/run1.raw", "payload", "p:reco/dst.1"])
def test_what_is_down_from_a_run_a_file_and_constants(world: World, of: str) -> None:
    with world.db.read() as conn:
        graph = traced(conn, payload_of(conn, 1) if of == "payload" else of, "descendants")
    own = [] if of == "p:reco/dst.1" else ["p:reco/dst.1"]
    assert names(graph, "collection") == sorted(
        [*own, *(["p:reco/dst.1"] if not own else []), "p:merged/dst"]
    )
    assert "p:reco/dst.2" not in names(graph, "collection")


def test_a_release_leads_to_all_that_was_made_with_it(world: World) -> None:
    with world.db.begin() as conn:
        datasets.create(conn, Did("p", "d"), {"step": "merged"}, 1.0)
        datasets.freeze(conn, Did("p", "d"), 2.0)
        graph = traced(conn, RELEASE[:20], "descendants")
        assert names(graph, "dataset") == ["p:d@1"]
        assert graph.counts() == {"collection": 3, "dataset": 1, "unit": 3}
        assert traced(conn, "p:d@1", "ancestors").counts()["run"] == 2
        told = explain(conn, RELEASE)
        assert "3 accepted attempts ran it" in " ".join(told.origin)


def test_constants_that_changed_since_are_those_of_the_time(world: World) -> None:
    with world.db.read() as conn:
        first = payload_of(conn, 1)
        unit = world.ids["unit1"]
        assert Constants(conn).of([unit]) == {unit: {"Scale": [first]}}
        assert Constants(conn).appliers(first) == [unit]
    with world.db.begin() as conn:
        conn.execute(sa.update(schema.unit).where(schema.unit.c.id == unit).values(resolved_hash="other"))
        assert Constants(conn).of([unit]) == {unit: {}}
        assert Constants(conn).appliers(first) == []


def test_a_graph_can_be_cut(world: World) -> None:
    with world.db.read() as conn:
        found = resolve(conn, "A/1")
        graph = trace(conn, (found.kind, found.id), "descendants", most=2)
    assert graph.is_cut and graph.document()["cut"]
    assert len(graph.nodes) == 2


def test_a_graph_is_bounded_however_many_things_were_made(
    sqlite_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns: dict[str, Any] = {"scope": "mc", "kind": "raw", "size": 1, "adler32": "0" * 8, "tier": "raw"}
    columns |= {"id": list(range(1, 1002)), "name": [f"f{n}" for n in range(1001)], "lineage": "{}"}
    with sqlite_database.begin() as conn:
        bulk.load(conn, schema.file, columns | {"sha256": [f"{n:064x}" for n in range(1001)], "created": 1.0})
        children = {"file_id": list(range(2, 1002)), "parent_id": [1] * 1000}
        bulk.load(conn, schema.file_parent, children)
    with sqlite_database.read() as conn:
        whole = trace(conn, ("file", 1), "descendants")
        assert len(whole.nodes) == 1001 and len(whole.edges) == 1000 and not whole.is_cut
        cut = trace(conn, ("file", 1), "descendants", most=100)
        assert (len(cut.nodes), len(cut.edges), cut.is_cut) == (100, 99, True)
        monkeypatch.setattr("beamwright.catalog.lineage.MOST_STEPS", 200)
        cut = trace(conn, ("file", 1), "descendants")
        assert (len(cut.nodes), len(cut.edges), cut.is_cut) == (201, 200, True)


def test_which_farm_release_and_constants_are_told_of_a_run(world: World) -> None:
    with world.db.read() as conn:
        rows = processing(conn, "A", 1)
        told = explain(conn, "A/1")
        constants = payload_of(conn, 1)
    assert [row["step"] for row in rows] == ["reco", "merged"]
    assert rows[0]["constants"] == {"Scale": [constants]} and rows[0]["outputs"] == ["p:reco/dst.1"]
    assert (rows[0]["farm"], rows[0]["release"]) == ("near", RELEASE)
    assert any(f"on farm near with release {RELEASE[:19]}" in line for line in told.origin)


def test_the_picture_is_sound_and_the_same_every_time(world: World) -> None:
    with world.db.read() as conn:
        graph = traced(conn, "p:merged/dst", "ancestors")
        drawn = picture(graph)
        assert drawn == picture(traced(conn, "p:merged/dst", "ancestors"))
    root = ET.fromstring(drawn)
    boxes = root.findall(".//{*}rect")
    assert len(boxes) == len(graph.nodes)
    assert len(root.findall(".//{*}path")) == len(graph.edges)
    width, height = (float(value) for value in (root.attrib["width"], root.attrib["height"]))
    places = [(float(box.attrib["x"]), float(box.attrib["y"])) for box in boxes]
    assert len(set(places)) == len(places)
    assert all(0 <= x < width and 0 <= y < height for x, y in places)
    assert not re.search(r"<script|https?://(?!www.w3.org)", drawn)


def test_edges_run_to_the_right_and_many_alike_become_one(world: World) -> None:
    with world.db.read() as conn:
        graph = traced(conn, "p:merged/dst", "ancestors")
    nodes, edges, _start = condensed(graph)
    columns = layered(nodes, edges)
    place = {name: number for number, column in enumerate(columns) for name in column}
    assert all(place[a] < place[b] for a, b in edges)
    fewer, joined, start = condensed(graph, most=1)
    assert {"2 runs of A", "2 dst dst of p", "2 process of reco"} <= {node.name for node in fewer.values()}
    assert len(joined) < len(edges) and fewer[start].name == "p:merged/dst"
    circle = [("a", "b"), ("b", "a")]
    known = {name: next(iter(nodes.values())) for name in "ab"}
    assert sorted(name for column in layered(known, circle) for name in column) == ["a", "b"]


def test_a_circle_is_opened_where_data_come_in(world: World) -> None:
    """Collecting, fitting and the constants that the next run begins with, each drawn as one."""
    with world.db.read() as conn:
        node = next(iter(traced(conn, "p:merged/dst", "ancestors").nodes.values()))
    names = ("chunks", "collect", "fit", "constants", "a result", "made of it")
    edges = [("chunks", "collect"), ("collect", "fit"), ("fit", "constants"), ("constants", "collect")]
    edges += [("constants", "a result"), ("chunks", "a result"), ("a result", "made of it")]
    columns = layered(dict.fromkeys(names, node), edges)
    assert columns == [[name] for name in names]


def test_a_dataset_is_worth_its_runs_less_what_is_missing(world: World) -> None:
    with world.db.begin() as conn:
        run = schema.run
        conn.execute(sa.update(run).values(luminosity=5.0, livetime=60.0))
        datasets.create(conn, Did("p", "d"), {"step": "merged"}, 1.0)
        members = datasets.collections(conn, datasets.find(conn, Did("p", "d")))
        told = worth(conn, members, "luminosity").document()
        # One of the ten records of each run is in quarantine.
        assert told["total"] == pytest.approx(9.0)
        assert told["lost to quarantine"] == pytest.approx(1.0)
        assert (told["runs"], told["complete runs"], told["complete"], told["unit"]) == (2, 0, 0, "/nb")
        assert told["not complete"][0]["why"] == "1 records are quarantined"
        history.move(conn, run, 1, "closed", "open", actor="t", at=3.0)
        conn.execute(sa.update(run).where(run.c.id == 1).values(expected={"records": {"event": 20}}))
        told = worth(conn, members, "livetime").document()
        assert told["lost in partial runs"] == pytest.approx(30.0)
        assert told["total"] == pytest.approx(120 - 30 - 3 - 6)
        assert "10 of 20 records were delivered" in told["not complete"][0]["why"]
        one = datasets.find_collections(conn, {"step": "reco", "where": "run == 2"})
        assert worth(conn, one, "luminosity").document()["runs"] == 1


def test_explanations_tell_of_decisions(world: World) -> None:
    from beamwright.catalog import collections

    with world.db.begin() as conn:
        datasets.create(conn, Did("p", "d"), {"step": "merged"}, 1.0)
        datasets.freeze(conn, Did("p", "d"), 2.0)
        collections.withdraw(conn, Did("p", "merged/dst"), "noise", 5.0, "ann")
        told = explain(conn, "p:d@1")
        assert "not valid any more: p:merged/dst" in told.holds[0]
        assert any("ann made it bad (noise)" in line for line in explain(conn, "p:merged/dst").origin)
