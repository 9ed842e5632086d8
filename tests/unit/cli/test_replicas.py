"""The commands about files at endpoints, in the workspace of the sample production."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from beamwright.db import history, schema
from beamwright.production.workspace import Workspace

Call = Callable[..., Any]


@pytest.fixture
def site(workspace: Workspace) -> Workspace:
    """Two endpoints of one site hold all raw files between them, one of them one merged file more."""
    text = (workspace.root / "beamwright.toml").read_text()
    declared = '\n[endpoint.lyon-disk]\nsite = "lyon"\n[endpoint.lyon-tape]\nsite = "lyon"\n'
    (workspace.root / "beamwright.toml").write_text(text + declared)
    file, replica = schema.file, schema.replica
    with workspace.db.begin() as conn:
        raw = list(conn.execute(sa.select(file).where(file.c.kind == "raw").order_by(file.c.id)))
        facts = {"state": "verified", "verified_by": "mover", "verified_at": 1.0}
        for number, row in enumerate(raw):
            place = {"endpoint": ("lyon-disk", "lyon-tape")[number % 2], "path": f"/lyon/{row.name}"}
            conn.execute(sa.insert(replica).values(file_id=row.id, **place, **facts))
    workspace.db.close()
    return workspace


def test_a_site_lacks_what_is_at_none_of_its_endpoints(site: Workspace, call: Call) -> None:
    everything, raw = (len(call("file", "ls", "--json", *more).rows) for more in ((), ("--kind", "raw")))
    lacking = call("file", "missing", "--at", "lyon", "--json").rows
    assert len(lacking) == everything - raw > 0
    assert all(row["at"] == ["near"] for row in lacking)
    assert call("file", "missing", "--at", "lyon", "--where", "kind == 'raw'").err.startswith(
        "there are none"
    )
    half = call("file", "missing", "--at", "lyon-disk", "--where", "kind == 'raw'", "--json").rows
    assert 0 < len(half) < raw and all("lyon-tape" in row["at"] for row in half)
    assert "near" in call("file", "missing", "--at", "lyon").out


def test_an_unknown_site_is_named(site: Workspace, call: Call) -> None:
    done = call("file", "missing", "--at", "lion")
    assert done.code == 2 and "did you mean lyon" in done.err


def test_where_files_are(site: Workspace, call: Call) -> None:
    rows = call("file", "where", "--json").rows
    assert {row["endpoint"] for row in rows} == {"near", "lyon-disk", "lyon-tape"}
    there = call("file", "where", "--at", "lyon", "--json").rows
    assert len(there) == sum(row["files"] for row in rows if row["endpoint"] != "near")
    for command in (("file", "where", "--at", "lyon"), ("file", "missing", "--at", "lyon-disk")):
        rows, plan = call(*command, "--json").rows, call(*command, "--explain", "--json").document
        assert plan["rows"] == len(rows) and "ix_replica_endpoint_file_id_state" in " ".join(plan["plan"])


def test_lists_that_end_early_end_without_complaint(site: Workspace, call: Call) -> None:
    for command in (("where", "--at", "lyon"), ("missing", "--at", "lyon-disk"), ("ls",)):
        done = call("file", *command, "--limit", "1")
        assert (done.code, done.err, len(done.out.splitlines())) == (0, "", 3), command


def stamp(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def test_reconcile_in_two_listings_with_brakes(site: Workspace, call: Call, tmp_path: Path) -> None:
    now = site.clock.now()
    rows = call("file", "where", "--at", "lyon-disk", "--json").rows
    lost = rows[0]["path"]
    listing = tmp_path / "lyon.txt"
    listing.write_text("".join(f"{row['path']}\t{row['bytes']}\n" for row in rows[1:]) + "/lyon/dark\t5\n")
    common = ("file", "reconcile", "lyon-disk", "--listing", listing, "--json")
    first = (*common, "--taken", stamp(now - 3 * 86_400))
    assert call(*first, "--dry-run").document["confirmed"] == 0
    assert (
        call(*first).document["findings"]
        == [
            {"path": "/lyon/dark", "finding": "dark", "size": 5, "confirmed": False},
            {"path": lost, "finding": "lost", "size": None, "confirmed": False},
        ]
        or call(*first).code == 0
    )
    second = (*common, "--taken", stamp(now - 86_400))
    done = call(*second)
    assert done.code == 3 and "max_per_cent = 1" in done.err and "--release" in done.err
    assert call("fsck").out.count(" 17  lyon-disk") == 2
    planned = call(*second, "--dry-run", "--max-per-cent", "100").document
    assert planned["lost"] == 1 and planned["confirmed"] == 2 and not planned["acted"]
    assert call(*second, "--release", "the pool was lost").document["lost"] == 1
    again = call("file", "missing", "--at", "lyon-disk", "--where", "kind == 'raw'", "--json").rows
    assert len(again) == 1 + len(call("file", "where", "--at", "lyon-tape", "--json").rows)
    assert call("fsck").out.count(" 17  lyon-disk") == 1
    assert call("file", "reconcile", "lyon-dsk", "--listing", listing, "--taken", "2026-01-01").code == 2


@pytest.fixture
def pool(workspace: Workspace, call: Call, tmp_path: Path) -> Path:
    """A collection of five files that others made, which lie at the endpoint ``pool``."""
    folder = tmp_path / "pool"
    folder.mkdir()
    records = []
    for n in range(5):
        data = f"events of file {n}".encode()
        (folder / f"f{n}").write_bytes(data)
        sums = {"sha256": hashlib.sha256(data).hexdigest(), "adler32": f"{zlib.adler32(data):08x}"}
        place = {"endpoint": "pool", "path": str(folder / f"f{n}")}
        records.append({"name": f"mc:f{n}", "size": len(data), "tier": "dst", "replicas": [place]} | sums)
    made = {"name": "mc:all", "tier": "dst", "stream": "dst", "series": "Z", "first": 1, "last": 1}
    made |= {"events": 5, "release": "24.1", "files": [f"mc:f{n}" for n in range(5)]}
    for noun, said in (("file", records), ("collection", [made])):
        (tmp_path / f"{noun}s.jsonl").write_text("".join(json.dumps(one) + "\n" for one in said))
        assert call(noun, "register", "--from", tmp_path / f"{noun}s.jsonl").code == 0
    return folder


def never_read(call: Call) -> list[str]:
    rows = call("fsck", "--json").rows
    return [row["message"] for row in rows if row["object"].startswith("registered files")]


def test_what_nobody_has_read_is_one_line_that_names_the_command(pool: Path, call: Call) -> None:
    (told,) = never_read(call)
    assert "lie at pool" in told and "mc:f0, mc:f1, mc:f2, …" in told and "mc:f3" not in told
    assert "`beamwright file verify --at pool`" in told
    assert [row["object"] for row in call("fsck", "--json").rows].count("registered files (5)") == 1


def test_replicas_that_are_read_are_verified_and_others_suspect(
    pool: Path, call: Call, workspace: Workspace
) -> None:
    wanted = call("file", "verify", "--at", "pool", "--dry-run")
    assert wanted.code == 0 and "5 replicas would be read" in wanted.err
    (pool / "f1").write_bytes(b"short")
    (pool / "f2").write_bytes(b"EVENTS of file 2")
    (pool / "f3").rename(pool / "away")
    done = call("file", "verify", "--at", "pool", "--json")
    assert done.code != 0 and "2 verified, 2 suspect, 1 unread" in done.err
    found = {row["file"]: (row["outcome"], row["problem"]) for row in done.rows}
    assert found["mc:f1"] == ("suspect", "it has 5 bytes, registered are 16")
    assert found["mc:f2"][1].startswith("it has sha256") and found["mc:f3"][0] == "unread"
    assert "(3)" in next(row["object"] for row in call("fsck", "--json").rows if "(3)" in row["object"])
    (pool / "away").rename(pool / "f3")
    for n in (1, 2):
        (pool / f"f{n}").write_bytes(f"events of file {n}".encode())
    assert "3 verified, 0 suspect, 0 unread" in call("file", "verify", "--at", "pool").err
    assert never_read(call) == [] and call("file", "verify", "--at", "pool").code == 0
    states = {row["replica"] for row in call("file", "where", "--at", "pool", "--json").rows}
    assert states == {"verified"}
    with workspace.db.read() as conn:
        replica = conn.execute(sa.select(schema.replica).where(schema.replica.c.endpoint == "pool")).first()
        assert replica is not None and replica.verified_by and replica.inode
        steps = [entry.target for entry in history.of(conn, "replica", replica.id)]
    assert steps == ["present", "verified"]


def test_an_endpoint_and_files_can_be_named(call: Call, pool: Path) -> None:
    done = call("file", "verify", "--at", "pol")
    assert done.code == 2 and "did you mean pool" in done.err
    assert "1 verified" in call("file", "verify", "--at", "pool", "--where", "name == 'f4'").err


def test_what_chooses_single_files_needs_a_place(call: Call, workspace: Workspace) -> None:
    for option, value in (("--where", "size > 3"), ("--as-of", "2026-05-01"), ("--limit", 3)):
        done = call("file", "where", option, value)
        assert done.code == 2 and f"{option} chooses single files" in done.err
    assert call("file", "where", "--explain").code == 2
    assert call("file", "ls", "--as-of", "1990-01-01", "--json").rows == []
