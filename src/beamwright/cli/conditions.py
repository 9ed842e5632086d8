"""``beamwright conditions``: what is valid where."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from beamwright.cli import constants, mirroring
from beamwright.cli.common import Columns, Noun, pick, reader, reading, write_document, write_rows


@click.group(cls=Noun)
def conditions() -> None:
    """Conditions: tags, intervals, payloads."""


for _command in (*constants.COMMANDS, *mirroring.COMMANDS):
    conditions.add_command(_command)


@conditions.command("ls")
@click.option("--global", "only_global", is_flag=True, help="List global tags.")
@reading
def ls(only_global: bool, folder: Path | None, as_json: bool) -> None:
    """List tags, or global tags."""
    from beamwright.db import views

    with reader(folder) as conn:
        rows = views.global_tags(conn) if only_global else views.tags(conn)
    found = [{key: value for key, value in row.items() if key != "id"} for row in rows]
    columns: Columns = {"tag": "name", "kind": "kind", "version": "version", "intervals": "intervals"}
    if only_global:
        columns = {
            "global tag": "name",
            "state": "state",
            "version": "version",
            "tags": "tags",
            "merkle": "merkle",
        }
    write_rows(found, columns, as_json)


@conditions.command("show")
@click.argument("name")
@reading
def show(name: str, folder: Path | None, as_json: bool) -> None:
    """Show a tag's intervals, a global tag's members, or a payload's content."""
    from beamwright.db import views

    with reader(folder) as conn:
        names = {row["name"] for row in views.tags(conn)}
        if name in names:
            write_document({"tag": name, "intervals": _intervals(views.validities(conn, name))}, as_json)
            return
        found = [row for row in views.global_tags(conn) if row["name"] == name]
        payloads = views.payloads(conn)
        document = _global(found[0]) if found else _payload(conn, _pick_payload(payloads, name, names))
    write_document(document, as_json)


def _pick_payload(payloads: list[dict[str, Any]], name: str, tags: set[str]) -> str:
    from beamwright.core.errors import UnknownNameError

    if len(name) < 6 or not any(row["id"].startswith(name) for row in payloads):
        raise UnknownNameError("tag, global tag or payload", name, tags)
    return str(pick(payloads, "id", "payload", name)["id"])


def _intervals(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    from beamwright.db import views
    from beamwright.report import text

    return [
        {
            "interval": text.interval(views.interval_of(row)),
            "payload": row["payload_id"][:16],
            "size": row["size"],
        }
        | {name: row[name] for name in ("origin", "reason", "generation", "added")}
        for row in rows
    ]


def _global(row: dict[str, Any]) -> dict[str, Any]:
    members = [{"tag": name, "version": version} for name, version in row["tags"].items()]
    return (
        {"global_tag": row["name"]}
        | {key: row[key] for key in ("state", "version", "merkle")}
        | {"members": members}
    )


def _payload(conn: Any, payload_id: str) -> dict[str, Any]:
    """Describe the arrays of a payload: names, shapes, range of values."""
    from beamwright.conditions import tags

    payload = tags.get_payload(conn, payload_id)
    document: dict[str, Any] = {"payload": payload_id, "kind": payload.kind, "size": len(payload.data)}
    if payload.kind in ("arrays", "histogram"):
        arrays, document["document"] = payload.unpack()
        document["arrays"] = [_array(name, array) for name, array in arrays.items()]
    return document


def _array(name: str, array: Any) -> dict[str, Any]:
    row: dict[str, Any] = {"name": name, "type": str(array.dtype), "shape": "×".join(map(str, array.shape))}
    if array.size and array.dtype.kind in "iuf":
        row |= {"min": float(array.min()), "mean": float(array.mean()), "max": float(array.max())}
    return row
