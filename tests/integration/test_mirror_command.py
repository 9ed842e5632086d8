"""``beamwright conditions export|import|mirror``: between workspaces, over HTTP, cuts, kills and changes."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

pytest.importorskip("uvicorn", reason="the extra `server` is not installed")

from beamwright.cli.main import run
from beamwright.conditions import tags
from beamwright.conditions.payload import Payload
from beamwright.core.runs import Interval
from beamwright.core.settings import DEFAULT_SETTINGS
from beamwright.db import schema
from beamwright.production.workspace import Workspace
from beamwright.server import auth
from support.databases import cluster
from support.serving import Relay, served

RUNS = 120


def payload(run: int) -> Payload:
    return Payload.arrays({"gain": np.full(300, run + 0.5)})


def publish(workspace: Workspace, runs: range) -> None:
    """A sweep for every tenth run."""
    with workspace.db.begin() as conn:
        tags.create_global_tag(conn, "central", 1.0)
        tags.create_tag(conn, "central/Gain", "arrays", 1.0)
        for first in runs[::10]:
            rows = [
                (Interval.runs("A", n, n), tags.put_payload(conn, payload(n), 1.0), "fitted", "")
                for n in range(first, min(first + 10, runs.stop))
            ]
            version = tags.append(conn, "central/Gain", rows, float(first))
            tags.sweep(conn, "central", {"central/Gain": version}, float(first))


def resolved(workspace: Workspace) -> str:
    with workspace.db.read() as conn:
        return tags.resolve(conn, "central", ["Gain"], Interval.runs("A", 1, RUNS)).hash


def visible(workspace: Workspace) -> tuple[list[Any], list[int], int]:
    """Return global tags, the versions of tags, the number of payloads, each of which is sound."""
    with workspace.db.read() as conn:
        names = conn.execute(sa.select(schema.global_tag.c.name)).scalars().all()
        versions = conn.execute(sa.select(schema.tag.c.version)).scalars().all()
        ids = conn.execute(sa.select(schema.payload.c.id)).scalars().all()
        assert len(tags.get_payloads(conn, ids)) == len(ids)
    return list(names), list(versions), len(ids)


@pytest.fixture
def central(tmp_path: Path) -> Iterator[Workspace]:
    workspace = Workspace.create(tmp_path / "central")
    publish(workspace, range(1, RUNS + 1))
    yield workspace
    workspace.db.close()


@pytest.fixture
def institute(tmp_path: Path) -> Iterator[Workspace]:
    workspace = Workspace.create(tmp_path / "institute")
    yield workspace
    workspace.db.close()


@pytest.fixture
def relay(central: Workspace) -> Iterator[Relay]:
    with served(central) as url:
        relay = Relay(("127.0.0.1", int(url.rpartition(":")[2])))
        yield relay
        relay.close()


@pytest.fixture
def options(central: Workspace, institute: Workspace, tmp_path: Path) -> list[str]:
    file = tmp_path / "token"
    file.write_text(auth.token(central.secret, auth.CONDITIONS) + "\n")
    return ["--token-file", str(file), "--workspace", str(institute.root), "--json"]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def caller(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run(["conditions", *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return caller


def test_a_mirror_over_http_follows_and_asks_for_what_is_new_alone(
    call, central: Workspace, institute: Workspace, relay: Relay, options: list[str]
) -> None:
    code, out, _ = call("mirror", relay.url, *options)
    assert code == 0 and json.loads(out)["payloads"] == RUNS
    assert resolved(institute) == resolved(central)
    relay.requests = 0
    code, out, _ = call("mirror", relay.url, *options)
    assert (json.loads(out)["intervals"], relay.requests) == (0, 2)
    publish(central, range(RUNS + 1, RUNS + 3))
    assert json.loads(call("mirror", relay.url, *options)[1])["payloads"] == 2
    with institute.db.read() as conn:
        assert tags.members(conn, "central") == {"central/Gain": RUNS // 10 + 1}
    assert run(["fsck", "--workspace", str(institute.root)]) == 0


def test_without_the_token_nothing_comes(
    call, institute: Workspace, relay: Relay, options: list[str], tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("0" * 64)
    code, _, err = call("mirror", relay.url, *options)
    assert code == 14 and "needs the token" in err and "--token-file" in err
    assert visible(institute) == ([], [], 0)


def test_a_connection_that_is_cut_leaves_nothing_partial_and_goes_on_from_there(
    call, central: Workspace, institute: Workspace, relay: Relay, options: list[str]
) -> None:
    relay.budget = 250_000
    code, _, err = call("mirror", relay.url, *options)
    assert code == 14 and "to the end" in err and "try again" in err
    names, versions, stored = visible(institute)
    assert (names, versions) == ([], []) and 0 < stored < RUNS
    relay.budget, relay.requests = float("inf"), 0
    code, out, _ = call("mirror", relay.url, *options)
    assert json.loads(out)["payloads"] == RUNS - stored
    assert relay.requests < RUNS
    assert resolved(institute) == resolved(central)


def test_a_mirror_that_is_killed_leaves_nothing_partial_and_goes_on_from_there(
    call, central: Workspace, institute: Workspace, relay: Relay, options: list[str]
) -> None:
    relay.budget, relay.hold = 300_000, True
    command = [sys.executable, "-m", "beamwright.cli.main", "conditions", "mirror", relay.url, *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert relay.full.wait(60)
        process.kill()
    names, versions, stored = visible(institute)
    assert (names, versions) == ([], []) and 0 < stored < RUNS
    relay.budget = float("inf")
    assert json.loads(call("mirror", relay.url, *options)[1])["payloads"] == RUNS - stored
    assert resolved(institute) == resolved(central)


def test_a_payload_that_is_changed_on_the_way_is_refused_by_name(
    call, institute: Workspace, relay: Relay, options: list[str]
) -> None:
    wrong = np.array([70.5, 70.5]).tobytes()
    relay.change = lambda data: data.replace(wrong, np.array([70.5, 71.5]).tobytes())
    code, _, err = call("mirror", relay.url, *options)
    assert code == 4 and f"payload {payload(70).id}" in err and "was not taken" in err
    names, versions, stored = visible(institute)
    assert (names, versions) == ([], []) and stored < RUNS


def test_a_document_that_is_changed_on_the_way_is_refused(
    call, institute: Workspace, relay: Relay, options: list[str]
) -> None:
    relay.change = lambda data: data.replace(b'"fitted"', b'"loaded"')
    code, _, err = call("mirror", relay.url, *options)
    assert code == 14 and "is not what its hash says" in err
    assert visible(institute) == ([], [], 0)


def test_on_a_period_a_mirror_follows_over_an_outage(
    central: Workspace, institute: Workspace, relay: Relay, options: list[str]
) -> None:
    relay.budget = 0
    command = [
        sys.executable,
        "-m",
        "beamwright.cli.main",
        "conditions",
        "mirror",
        relay.url,
        "--every",
        "0.2",
    ]
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert relay.full.wait(60)
        relay.budget = float("inf")
        assert json.loads(process.stdout.readline())["version"] == RUNS // 10
        publish(central, range(RUNS + 1, RUNS + 2))
        versions = (json.loads(line)["version"] for line in process.stdout)
        assert next(version for version in versions if version > RUNS // 10) == RUNS // 10 + 1
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=240) == 130
    assert visible(institute)[2] == RUNS + 1


def test_a_copy_of_the_database_can_be_mirrored_without_a_server(
    call, central: Workspace, institute: Workspace
) -> None:
    copy = institute.root.parent / "copy.db"
    central.db.close()
    shutil.copyfile(central.root / "beamwright.db", copy)
    for source in (copy, central.root):
        arguments = ["mirror", source, "--workspace", institute.root, "--json"]
        code, _, err = call(*arguments, *(["--moved-from", copy] if source != copy else []))
        assert code == 0, err
        assert resolved(institute) == resolved(central)


def test_an_exported_snapshot_carries_its_hash_and_resolves_the_same_elsewhere(
    call, central: Workspace, institute: Workspace, tmp_path: Path
) -> None:
    where = ["--to", tmp_path / "out", "--workspace", central.root, "--json"]
    code, out, _ = call("export", "central", f"A/1..{RUNS}", *where)
    told = json.loads(out)
    assert code == 0 and told["resolved_hash"] == resolved(central)
    there = ["--workspace", institute.root, "--json"]
    assert json.loads(call("import", told["file"], "--dry-run", *there)[1])["version"] == 1
    assert visible(institute)[0] == []
    for command in ("import", "mirror"):
        assert json.loads(call(command, told["file"], *there)[1])["version"] == 1
    assert resolved(institute) == resolved(central)
    data = bytearray(Path(told["file"]).read_bytes())
    data[-4] ^= 1
    Path(told["file"]).write_bytes(data)
    code, _, err = call("import", told["file"], *there)
    assert code == 4 and "other content than its name says" in err
    (tmp_path / "renamed.bwc").write_bytes(data)
    code, _, err = call("import", tmp_path / "renamed.bwc", "--as", "again", *there)
    assert code == 4 and "payload" in err and "has other content" in err
    assert visible(institute)[0] == ["central"]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("A/1..5", "--role", "Gian"), 2, "did you mean Gain?"),
        (("B/1..5",), 6, "has no constants for B/1..5"),
        (("A/5..1",), 2, "A:5..1 runs backwards"),
    ],
)
def test_an_export_of_what_is_not_there_writes_nothing(
    call, central: Workspace, tmp_path: Path, words: tuple[str, ...], code: int, message: str
) -> None:
    where = ["--to", tmp_path / "out", "--workspace", central.root]
    found, _, err = call("export", "central", *words, *where)
    assert found == code and message in err
    assert not (tmp_path / "out").exists()


def test_the_token_is_told_to_those_who_have_the_workspace(call, central: Workspace) -> None:
    code, out, _ = call("token", "--workspace", central.root)
    assert (code, out.strip()) == (0, auth.token(central.secret, auth.CONDITIONS))


def test_two_institutions_with_a_cluster_each_mirror_over_http(call, tmp_path: Path) -> None:
    with ExitStack() as stack:
        places = [clustered(stack, tmp_path / name) for name in ("central", "institute")]
        central, institute = places
        publish(central, range(1, RUNS + 1))
        url = stack.enter_context(served(central))
        (tmp_path / "token").write_text(auth.token(central.secret, auth.CONDITIONS))
        options = ["--token-file", tmp_path / "token", "--workspace", institute.root, "--json"]
        assert json.loads(call("mirror", url, *options)[1])["intervals"] == RUNS
        with central.db.begin() as conn:
            root = tags.freeze(conn, "central", 500.0)
        assert json.loads(call("mirror", url, *options)[1])["state"] == "frozen"
        assert resolved(institute) == resolved(central)
        with institute.db.read() as conn:
            assert tags.merkle(conn, "central") == root


def clustered(stack: ExitStack, root: Path) -> Workspace:
    """Make a workspace whose database is in a cluster of its own."""
    url = stack.enter_context(cluster()).replace("@/postgres", "@/template1")
    settings = DEFAULT_SETTINGS.replace("sqlite:///beamwright.db", url)
    workspace = Workspace.create(root, settings)
    stack.callback(workspace.db.close)
    return workspace
