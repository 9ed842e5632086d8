"""Conditions over HTTP: named by content or version they are cached for ever; nothing without a token."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

pytest.importorskip("fastapi", reason="the extra `server` is not installed")

from beamwright.client import Client
from beamwright.conditions import tags
from beamwright.conditions.payload import Payload
from beamwright.conditions.sharing import RemoteSource
from beamwright.core.runs import Interval
from beamwright.db import schema
from beamwright.db.migrations import guards
from beamwright.production.workspace import Workspace
from beamwright.server import auth
from support.serving import Console, served

PAYLOAD = Payload.arrays({"gain": np.array([1.5])})
PATHS = (
    "/conditions/index.json",
    "/conditions/global/g",
    "/conditions/tag/g/Gain",
    f"/conditions/payload/{PAYLOAD.id}",
    "/conditions/resolve/g?series=A&run=1",
)


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    workspace = Workspace.create(tmp_path / "workspace")
    put(workspace, 1, PAYLOAD)
    yield workspace
    workspace.db.close()


def put(workspace: Workspace, run: int, payload: Payload) -> None:
    with workspace.db.begin() as conn:
        tags.create_global_tag(conn, "g", 1.0)
        tags.create_tag(conn, "g/Gain", "arrays", 1.0)
        row = (Interval.runs("A", run, run), tags.put_payload(conn, payload, 1.0), "loaded", "by hand")
        tags.sweep(conn, "g", {"g/Gain": tags.append(conn, "g/Gain", [row], 1.0, replace=True)}, 1.0)


@pytest.fixture
def console(workspace: Workspace) -> Console:
    return Console(workspace)


def test_nothing_is_given_without_a_token(console: Console) -> None:
    for path in (*PATHS, "/conditions/nowhere"):
        for header in ({}, {"Authorization": "Bearer wrong"}, {"If-None-Match": f'"{PAYLOAD.id}"'}):
            answer = console.get(path, headers=header)
            assert answer.status_code == 401 and "Gain" not in answer.text
            assert answer.headers["cache-control"] == "no-store" and "etag" not in answer.headers


def test_the_token_for_conditions_opens_conditions_alone(console: Console, workspace: Workspace) -> None:
    bearer = {"Authorization": f"Bearer {auth.token(workspace.secret, auth.CONDITIONS)}"}
    assert all(console.get(path, headers=bearer).status_code == 200 for path in PATHS)
    for path in ("/", "/index.json", "/explain/A/1", "/conditionsindex.json"):
        assert console.get(path, headers=bearer).status_code == 401
    assert all(console.get(path, headers=console.bearer).status_code == 200 for path in PATHS)


def test_a_payload_is_named_by_its_hash_and_never_sent_to_who_has_it(console: Console) -> None:
    path = f"/conditions/payload/{PAYLOAD.id}"
    answer = console.get(path, headers=console.bearer)
    assert Payload(answer.headers["x-beamwright-kind"], answer.content).id == PAYLOAD.id
    assert answer.headers["etag"] == f'"{PAYLOAD.id}"'
    assert answer.headers["cache-control"] == "private, max-age=31536000, immutable"
    for known in (f'"{PAYLOAD.id}"', f'"other", W/"{PAYLOAD.id}"', "*"):
        again = console.get(path, headers=console.bearer | {"If-None-Match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", f'"{PAYLOAD.id}"')
    missing = f"/conditions/payload/{'0' * 64}"
    for header in ({}, {"If-None-Match": f'"{"0" * 64}"'}):
        assert console.get(missing, headers=console.bearer | header).status_code == 404


def test_a_part_of_a_payload_is_given_as_asked(console: Console) -> None:
    path, size = f"/conditions/payload/{PAYLOAD.id}", len(PAYLOAD.data)

    def part(asked: str, **more: str) -> tuple[int, bytes, str | None]:
        answer = console.get(path, headers=console.bearer | {"Range": asked} | more)
        return answer.status_code, answer.content, answer.headers.get("content-range")

    assert console.get(path, headers=console.bearer).headers["accept-ranges"] == "bytes"
    half = size // 2
    (_, one, told), (_, other, _) = part(f"bytes=0-{half - 1}"), part(f"bytes={half}-")
    assert one + other == PAYLOAD.data and told == f"bytes 0-{half - 1}/{size}"
    assert part("bytes=-8") == (206, PAYLOAD.data[-8:], f"bytes {size - 8}-{size - 1}/{size}")
    assert part(f"bytes=0-{size * 9}")[:2] == (206, PAYLOAD.data)
    for beyond in (f"bytes={size}-", "bytes=-0", "bytes=5-2"):
        assert part(beyond) == (416, b"", f"bytes */{size}")
    for strange in ("bytes=-", "bytes=0-1,3-4", "lines=0-1", f"bytes={'9' * 40}-", "bytes=x-"):
        assert part(strange)[:2] == (200, PAYLOAD.data)
    known = f'"{PAYLOAD.id}"'
    assert part("bytes=0-3", **{"If-Range": known})[0] == 206
    assert part("bytes=0-3", **{"If-Range": '"other"'})[:2] == (200, PAYLOAD.data)
    assert part("bytes=0-3", **{"If-None-Match": known})[:2] == (304, b"")


def test_a_payload_that_was_tampered_with_is_not_given_and_named(
    console: Console, workspace: Workspace
) -> None:
    with workspace.db.begin() as conn:
        guards.release(conn, "payload")
        conn.execute(sa.update(schema.payload).values(data=PAYLOAD.data[:-8] + bytes(8)))
    answer = console.get(f"/conditions/payload/{PAYLOAD.id}", headers=console.bearer)
    assert answer.status_code == 422 and f"payload {PAYLOAD.id} has other content" in answer.text
    assert "etag" not in answer.headers and answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "path",
    [
        "payload/../../secret", "payload/..%2f..%2fbeamwright.toml", "payload/%2e%2e/%2e%2e/secret",
        "tag/..%2f..%2f..%2fetc/passwd", "global/%2Fetc%2Fpasswd", "resolve/..%2Fg?series=..&run=1",
        "payload/%00", "tag/g/Gain%00", "payload/' OR 1=1 --", "global/g'; DROP TABLE tag; --",
    ],
)  # fmt: skip
def test_tricks_with_paths_find_nothing(console: Console, workspace: Workspace, path: str) -> None:
    answer = console.get(f"/conditions/{path}", headers=console.bearer)
    assert answer.status_code in (400, 404, 422), answer.text
    assert workspace.secret.hex() not in answer.text and "root:" not in answer.text
    assert console.get("/conditions/tag/g/Gain", headers=console.bearer).json()["version"] == 1


def test_clients_that_are_slow_keep_nobody_waiting(workspace: Workspace) -> None:
    long = Payload.opaque(bytes(8_000_000))
    with workspace.db.begin() as conn:
        tags.put_payload(conn, long, 2.0)
    token = auth.token(workspace.secret, auth.CONDITIONS)
    head = f"GET /conditions/payload/{long.id} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
    with served(workspace) as url, ExitStack() as stack:
        place = ("127.0.0.1", int(url.rpartition(":")[2]))
        slow = [stack.enter_context(socket.create_connection(place)) for _ in range(60)]
        for number, one in enumerate(slow):
            # Half never end what they ask; half never read what they get.
            one.sendall(head.encode() + (b"X-Slow: " if number % 2 else b"\r\n"))
        client = stack.enter_context(closing(Client(url, token)))
        source = RemoteSource(client)
        assert source.payload(PAYLOAD.id) == PAYLOAD
        put(workspace, 2, PAYLOAD)  # nor does what nobody reads hold up who writes
        assert source.tag("g/Gain", 0)["version"] == 2


def test_what_can_change_is_asked_anew_and_what_names_a_version_is_not(
    console: Console, workspace: Workspace
) -> None:
    now, then = PATHS[-1], PATHS[-1] + "&version=1"
    for path in (now, then, *PATHS[:3]):
        answer = console.get(path, headers=console.bearer)
        assert answer.headers["etag"] == f'"{hashlib.sha256(answer.content).hexdigest()}"'
        expected = "private, max-age=31536000, immutable" if path == then else "private, no-cache"
        assert answer.headers["cache-control"] == expected
        known = console.bearer | {"If-None-Match": answer.headers["etag"]}
        assert console.get(path, headers=known).status_code == 304
    old = console.get(then, headers=console.bearer)
    put(workspace, 1, Payload.arrays({"gain": np.array([2.5])}))
    again = console.bearer | {"If-None-Match": old.headers["etag"]}
    assert console.get(then, headers=again).status_code == 304
    assert console.get(now, headers=again).json()["hash"] != old.json()["hash"]


def test_a_run_is_resolved_by_name_version_and_hash(console: Console, workspace: Workspace) -> None:
    put(workspace, 2, PAYLOAD)
    with workspace.db.begin() as conn:
        root = tags.freeze(conn, "g", 2.0)
        found = tags.resolve(conn, "g", ["Gain"], Interval.runs("A", 2, 2))
    for name in ("g", root):
        told = console.get(f"/conditions/resolve/{name}?series=A&run=2", headers=console.bearer).json()
        assert told["hash"] == found.hash
        assert told["pieces"] == [["Gain", Interval.runs("A", 2, 2).document(), PAYLOAD.id]]
    early = console.get("/conditions/resolve/g?series=A&run=2&version=1", headers=console.bearer).json()
    assert (early["pieces"], early["gaps"]) == ([], [["Gain", Interval.runs("A", 2, 2).document()]])
    one = console.get("/conditions/resolve/g?series=A&run=2&role=Nothing", headers=console.bearer).json()
    assert one["gaps"][0][0] == "Nothing"


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("global/gg", 404, "did you mean g"),
        ("tag/g/Gian", 404, "did you mean g/Gain"),
        ("tag/g/Gain?since=7", 422, "has no version 7"),
        ("tag/g/Gain?since=-1", 422, "greater than or equal"),
        ("resolve/g?series=A&run=1&version=9", 422, "no version 9"),
        ("resolve/g?series=A&run=x", 422, "valid integer"),
    ],
)
def test_what_is_not_there_is_said_with_the_nearest(
    console: Console, path: str, status: int, said: str
) -> None:
    answer = console.get(f"/conditions/{path}", headers=console.bearer)
    assert answer.status_code == status and said in answer.text


def test_what_came_after_a_version_is_given_alone(console: Console, workspace: Workspace) -> None:
    put(workspace, 1, Payload.arrays({"gain": np.array([2.5])}))
    put(workspace, 2, PAYLOAD)
    page = console.get("/conditions/tag/g/Gain?since=1", headers=console.bearer).json()
    assert (page["version"], len(page["added"]), len(page["ended"])) == (3, 2, 1)
    assert console.get("/conditions/tag/g/Gain?since=3", headers=console.bearer).json()["added"] == []
    sweeps = console.get("/conditions/global/g?since=2", headers=console.bearer).json()["sweeps"]
    assert sweeps == [[3, "g/Gain", 3, 1.0]]
