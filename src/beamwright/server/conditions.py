"""Conditions over HTTP: what its content or a version names is cached for ever, the rest is asked anew.

An ETag is the sha256 of the body, that of a payload its id; who knows it gets 304.
"""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import FastAPI, Query, Request, Response

from beamwright.conditions import sharing, tags
from beamwright.core.canonical import canonical_json, sha256_hex
from beamwright.core.runs import RUN_MAX, Interval
from beamwright.production.workspace import Workspace

ROOT = "/conditions/"
_RANGE = re.compile(r"bytes=([0-9]{1,18})?-([0-9]{1,18})?")
# For those who asked with their token alone, not for what lies between.
FOR_EVER = "private, max-age=31536000, immutable"
ASK_ANEW = "private, no-cache"

Since = Annotated[int, Query(ge=0)]
Run = Annotated[int, Query(ge=0, le=RUN_MAX)]


def add_pages(app: FastAPI, workspace: Workspace) -> None:
    """Add the addresses under which conditions are served."""

    @app.get(ROOT + "index.json")
    def index(request: Request) -> Response:
        """List the global tags."""
        with workspace.db.read() as conn:
            return _document(request, sharing.index(conn))

    @app.get(ROOT + "global/{name:path}")
    def global_tag(request: Request, name: str, since: Since = 0) -> Response:
        """A global tag: its members, and its sweeps after a version."""
        with workspace.db.read() as conn:
            return _document(request, sharing.global_tag(conn, name, since))

    @app.get(ROOT + "tag/{name:path}")
    def tag(request: Request, name: str, since: Since = 0) -> Response:
        """The next versions of a tag after one."""
        with workspace.db.read() as conn:
            return _document(request, sharing.tag(conn, name, since))

    @app.get(ROOT + "resolve/{name:path}")
    def resolve(
        request: Request,
        name: str,
        series: str,
        run: Run,
        version: Annotated[int | None, Query(ge=0)] = None,
        role: Annotated[list[str] | None, Query()] = None,
    ) -> Response:
        """What constants a run has under a global tag (its name or Merkle hash), now or at a version."""
        with workspace.db.read() as conn:
            found = sharing.resolved(conn, name, Interval.runs(series, run, run), version, role)
        is_fixed = version is not None or found["global_tag"] != name
        return _document(request, found, FOR_EVER if is_fixed else ASK_ANEW)

    @app.get(ROOT + "payload/{payload_id}")
    def payload(request: Request, payload_id: str) -> Response:
        """A payload, or the range of its bytes that is asked for; its id is the hash of the whole."""
        with workspace.db.read() as conn:
            if _is_known(request, payload_id) and sharing.has_payload(conn, payload_id):
                return _answer(request, b"", payload_id, FOR_EVER)
            found = tags.get_payload(conn, payload_id)
        answer = _answer(request, found.data, payload_id, FOR_EVER, "application/octet-stream")
        answer.headers.update({sharing.KIND_HEADER: found.kind, "Accept-Ranges": "bytes"})
        part = _part(request, payload_id, len(found.data))
        return answer if part is None or answer.status_code != 200 else _partial(answer, found.data, part)


def _part(request: Request, etag: str, size: int) -> range | None:
    """Return the one range of bytes that a request asks for; empty when it lies beyond the end."""
    found = _RANGE.fullmatch(request.headers.get("range", ""))
    if found is None or request.headers.get("if-range", f'"{etag}"') != f'"{etag}"':
        return None
    first, last = found.groups()
    if first:
        return range(int(first), min(size, int(last) + 1 if last else size))
    return range(max(0, size - int(last)), size) if last else None


def _partial(answer: Response, data: bytes, part: range) -> Response:
    headers = {k: v for k, v in answer.headers.items() if k not in ("content-length", "content-type")}
    if not part:
        return Response(status_code=416, headers=headers | {"Content-Range": f"bytes */{len(data)}"})
    headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{len(data)}"
    return Response(data[part.start : part.stop], 206, headers, answer.media_type)


def _document(request: Request, document: sharing.Document, cache: str = ASK_ANEW) -> Response:
    body = canonical_json(document)
    return _answer(request, body, sha256_hex(body), cache)


def _answer(
    request: Request, body: bytes, etag: str, cache: str, media_type: str = "application/json"
) -> Response:
    headers = {"ETag": f'"{etag}"', "Cache-Control": cache, "Vary": "Authorization, Cookie"}
    if _is_known(request, etag):
        return Response(status_code=304, headers=headers)
    return Response(body, headers=headers, media_type=media_type)


def _is_known(request: Request, etag: str) -> bool:
    """Tell whether the request names the ETag among those that it knows."""
    told = [one.strip().removeprefix("W/") for one in request.headers.get("if-none-match", "").split(",")]
    return f'"{etag}"' in told or "*" in told
