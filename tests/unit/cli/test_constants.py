"""Conditions as with git: put, get, log, diff, tag, freeze; hand-loaded constants checked line by line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from beamwright.core.runs import Interval
from beamwright.production.workspace import Workspace
from support.chains import World, constants

TABLE = "channel gain  # of the amplifiers\n0 1.5\n\n1 1.75\n"
WHY = ("--reason", "test pulse")


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """Run 1 of three is calibrated; the chain writes gt/Gain."""
    workspace = Workspace.create(tmp_path / "workspace")
    monkeypatch.chdir(workspace.root)
    world = World(workspace.db)
    for run in (1, 2, 3):
        world.deliver(run)
    world.conclude([world.collect(1)], 1.1)
    (workspace.root / "table.txt").write_text(TABLE)
    return world


def put(call, *more: str, tag: str = "gt/Map", where: str = "A/1..9", text: str = TABLE):
    Path("table.txt").write_text(text)
    return call("conditions", "put", tag, "table.txt", "--interval", where, *WHY, *more, "--json")


def test_a_table_is_loaded_and_resolves(call, world: World) -> None:
    assert put(call).document["version"] == 1
    rows = call("conditions", "get", "gt", "A/5", "--role", "Map", "--values", "--json").rows
    assert rows[0]["values"] == {"channel": [0, 1], "gain": [1.5, 1.75]}
    assert put(call, where="A/1..9").document["version"] == 1, "the same again changes nothing"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("channel gain\n0 1.5\n1 1,75\n", "table.txt:3: channel 1: gain is '1,75', which is no number"),
        ("channel,gain\n0,1.5\n1,,2\n", "table.txt:3: channel 1 has 2 values for 1 columns"),
        ("channel,gain\n0,1.5\n1,\n", "table.txt:3: channel 1: gain is '', which is no number"),
        ("channel gain\n0 1.5\nx1 1.75\n", "table.txt:3: 'x1' is no channel"),
        ("channel gain\n0 1.5\n0 1.75\n", "table.txt:3: channel 0 stands already in line 2"),
        ("channel gain\n0 1.5 3\n", "table.txt:2: channel 0 has 2 values for 1 columns"),
        ("channel gain\n0 1.5\n\u00b2 1.75\n", "table.txt:3: '\u00b2' is no channel"),
        ("channel gain\n0 1.5\n\u0661 1.75\n", "table.txt:3: '\u0661' is no channel"),
        ("channel gain\n0 1.5\n1 1_75\n", "table.txt:3: channel 1: gain is '1_75', which is no number"),
        ("channel gain\n0 1.5\n1 1.7\x0c5\n", "table.txt:3: channel 1: gain is '1.7\\x0c5', which is no"),
        ("channel gain\n0 1.5\n1 1.7\u20285\n", "table.txt:3: channel 1: gain is '1.7\\u20285', which"),
        ("channel gain\n0 1.5\n1\u00a01.75\n", "table.txt:3: '1\\xa01.75' is no channel"),
        (f"channel gain\n{10**19} 1.5\n", f"table.txt:2: '{10**19}' is no channel"),
        ("channel gain gain\n0 1.5 2.5\n", "table.txt:1: 'gain' stands twice, or is no name"),
        ("channel gain channel\n0 1.5 7\n", "table.txt:1: 'channel' stands twice, or is no name"),
        ("channel,gain,\n0,1.5,2\n", "table.txt:1: a name is empty"),
        ("channel gain\n0 1e999\n", "1 bad channels, 0 are allowed: channel 0: line 2: gain not finite"),
        ("0 1.5\n", "table.txt:1: no names of columns"),
        ("channel gain\n", "has no channel"),
        ("channel gain\n0 nan\n", "1 bad channels, 0 are allowed: channel 0: line 2: gain not finite"),
    ],
)
def test_malformed_constants_are_refused_naming_line_and_channel(
    call, world: World, text: str, message: str
) -> None:
    told = put(call, text=text)
    assert told.code != 0 and message in json.loads(told.err)["message"]
    assert call("conditions", "ls", "--json").rows[0]["name"] == "gt/Gain", "nothing was stored"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1,\n"b" 2}', "no JSON: Expecting ':' delimiter: line 2"),
        ('{"a": NaN}', "no JSON: NaN stands in it"),
        ('{"a": 1, "a": 2}', "no JSON: 'a' twice in one object stands in it"),
        ("[" * 100_000, "no JSON"),
    ],
)
def test_malformed_documents_are_refused(call, world: World, text: str, message: str) -> None:
    Path("table.json").write_text(text)
    told = call("conditions", "put", "gt/Map", "table.json", "--interval", "A/1", *WHY)
    assert told.code != 0 and message in told.err and "Traceback" not in told.err
    assert [row["name"] for row in call("conditions", "ls", "--json").rows] == ["gt/Gain"]


def test_a_mark_of_byte_order_is_no_part_of_a_table(call, world: World) -> None:
    expected = put(call).document["payload"]
    assert (
        put(call, where="A/10..12", text="\ufeff" + TABLE.replace("\n", "\r\n")).document["payload"]
        == expected
    )


def test_a_table_with_commas_is_the_same(call, world: World) -> None:
    blanks = put(call).document["payload"]
    text = "channel, gain  # of the amplifiers\n0, 1.5\n\n1,1.75\n"
    assert put(call, where="A/10..12", text=text).document["payload"] == blanks


def test_channels_that_are_missing_count_as_bad_up_to_a_limit(call, world: World) -> None:
    put(call)
    told = put(call, where="A/10..12", text="channel gain\n0 1.5\n")
    assert told.code != 0 and "channel 1: missing" in told.err
    assert put(call, "--max-bad", "1", where="A/10..12", text="channel gain\n0 1.5\n").code == 0


def test_constants_may_not_begin_before_the_next_run_that_is_not_calibrated(call, world: World) -> None:
    told = put(call, tag="gt/Gain", where="A/1..2")
    assert told.code != 0 and "start before A/2, the next run" in told.err
    assert put(call, tag="gt/Gain", where="A/2").code == 0


def test_the_chain_leaves_what_was_loaded_by_hand_and_starts_from_it(call, world: World) -> None:
    payload = put(call, tag="gt/Gain", where="A/2").document["payload"]
    world.conclude([world.collect(2)], 1.9)
    assert [piece[2] for piece in world.resolve(2).pieces] == [payload]
    assert world.collect(3).start == {"Gain": payload}


def test_by_force_what_is_there_is_replaced_and_old_versions_answer_as_before(call, world: World) -> None:
    assert put(call, "--force", tag="gt/Gain", where="A/1").code == 0
    rows = call("conditions", "get", "gt", "A/1", "--version", "1", "--json").rows
    assert constants(1.1).id in {row["payload"] for row in rows}
    (changed,) = call("conditions", "diff", "gt/Gain@1", "gt/Gain", "--json").rows[:1]
    assert changed["old"] is None or changed["old"] == constants(1.1).id
    assert [row["version"] for row in call("conditions", "log", "gt/Gain", "--json").rows] == [2, 1]


def test_a_past_date_gives_what_held_then(call, world: World) -> None:
    early = call("conditions", "get", "gt", "A/1", "--as-of", "1970-01-01T00:16:42", "--json").rows
    late = call("conditions", "get", "gt", "A/1", "--as-of", "2100-01-01", "--json").rows
    assert early == [] and late[0]["payload"] == constants(1.1).id
    told = call("conditions", "get", "gt", "A/1", "--as-of", "yesterday")
    assert told.code != 0 and "is no date" in told.err


def test_a_global_tag_is_made_from_another_and_frozen(call, world: World) -> None:
    made = call("conditions", "tag", "final", "--from", "gt", *WHY, "--json").document
    assert made["tags"] == {"gt/Gain": 1}
    assert len(call("conditions", "freeze", "final", *WHY, "--json").document["merkle"]) == 64
    told = call("conditions", "put", "final/Map", "table.txt", "--interval", "A/1", *WHY)
    assert told.code != 0 and "frozen" in told.err


def test_gaps_are_reported(call, world: World) -> None:
    put(call, where="A/1..3"), put(call, where="A/6..9")
    rows = call("conditions", "check", "gt", "--json").rows
    assert rows == [{"tag": "gt/Map", "problem": "gap", "interval": str(Interval.runs("A", 4, 5))}]


def test_an_interval_that_runs_backwards_is_refused(call, world: World) -> None:
    told = put(call, where="A/9..1")
    assert told.code != 0 and "runs backwards" in told.err


@pytest.mark.parametrize("where", ["A/1..99999999999", "A/\u00b2", "A/1..", "/1", f"A/{'9' * 5000}"])
def test_what_is_no_interval_of_runs_is_refused(call, world: World, where: str) -> None:
    told = put(call, where=where)
    assert told.code == 2 and "is no interval" in told.err and "runs go up to 4294967295" in told.err


def test_constants_may_hold_to_the_last_run_there_can_be(call, world: World) -> None:
    assert put(call, where="A/1..4294967295").code == 0
    rows = call("conditions", "get", "gt", "A/4294967295", "--role", "Map", "--json").rows
    assert len(rows) == 1 and rows[0]["payload"]


def test_a_version_that_there_is_not_is_refused(call, world: World) -> None:
    for words in (
        ("diff", "gt/Gain@9", "gt/Gain"),
        ("diff", "gt@9", "gt"),
        ("tag", "new", "--from", "gt@9", *WHY),
    ):
        told = call("conditions", *words)
        assert told.code != 0 and "has no version 9" in told.err
    told = call("conditions", "tag", "new", "--from", "gt@first", *WHY)
    assert told.code == 2 and "names no version" in told.err
    assert [row["name"] for row in call("conditions", "ls", "--global", "--json").rows] == ["gt"]


def test_tags_and_global_tags_are_listed_with_their_versions(call, world: World) -> None:
    put(call)
    rows = {row["name"]: row for row in call("conditions", "ls", "--json").rows}
    assert {name: row["version"] for name, row in rows.items()} == {"gt/Gain": 1, "gt/Map": 1}
    (global_tag,) = call("conditions", "ls", "--global", "--json").rows
    assert (global_tag["name"], global_tag["state"], global_tag["version"]) == ("gt", "open", 2)
    table = call("conditions", "ls").out
    assert "gt/Gain" in table and "arrays" in table
