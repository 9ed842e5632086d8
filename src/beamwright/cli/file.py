"""``beamwright file``: files, and what they say of themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from beamwright.cli import replicas
from beamwright.cli.asking import asking, question, write_answer, write_plan
from beamwright.cli.common import (
    Columns,
    Noun,
    dry_run_option,
    json_option,
    output_option,
    reader,
    reading,
    say,
    write_document,
    write_rows,
)
from beamwright.cli.registering import register_command


@click.group(cls=Noun)
def file() -> None:
    """Files and what they say of themselves."""


file.add_command(register_command("file"))
for _command in (replicas.where, replicas.missing, replicas.verify, replicas.reconcile):
    file.add_command(_command)


@file.command("ls")
@click.option("--kind", help="Of this kind only: raw, rntuple, bundle or external.")
@asking("file")
@reading
def ls(kind: str | None, folder: Path | None, as_json: bool, explain: bool, **asked: Any) -> None:
    """List the files of the workspace."""
    import sqlalchemy as sa

    from beamwright.catalog.asking import ask
    from beamwright.catalog.vocabulary import state_then
    from beamwright.db import schema

    replica, of_kind = schema.replica, [schema.file.c.kind == kind] if kind else []
    names = (
        "did",
        "kind",
        "tier",
        "size",
        "sha256",
        "adler32",
        "uuid",
        "endpoint",
        "path",
        "replica",
        "created",
    )
    columns: Columns = {
        "file": "did",
        "kind": "kind",
        "bytes": "size",
        "sha256": lambda r: r["sha256"][:12],
        "replica": "replica",
    }
    with reader(folder) as conn:
        wanted = question("file", asked)
        state = state_then(replica, wanted.as_of)
        was = [
            sa.case((state.is_not(None), column)) for column in (replica.c.endpoint, replica.c.path, state)
        ]
        place = tuple(c.label(n) for c, n in zip(was, ("endpoint", "path", "replica"), strict=True))
        if explain:
            write_plan(conn, wanted, as_json, *of_kind)
            return
        rows = (
            {"did": f"{r['scope']}:{r['name']}"} | {n: r[n] for n in names[1:]}
            for r in ask(conn, wanted, *of_kind, columns=place, join=replica)
        )
        write_answer(conn, wanted, rows, columns, as_json, kind=kind)


@file.command("show")
@click.argument("name", metavar="PATH|NAME")
@reading
def show(name: str, folder: Path | None, as_json: bool) -> None:
    """Show what a file says of itself (a path), or what the workspace knows of it (a name)."""
    path = Path(name)
    document = metadata(path) if path.is_file() else _registered(name, folder)
    write_document(document, as_json, None if as_json else _lines(document))


@file.command("split")
@click.argument("source", metavar="FILE", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@output_option("What the files are called: dst.root gives dst.0001.root and so on.")
@click.option("--events", type=click.IntRange(1), default=None, help="At most so many records per file.")
@click.option("--bytes", "size", type=click.IntRange(1), default=None, help="At most so many bytes of pages.")
@dry_run_option
@json_option
def split(
    source: Path, output: Path, events: int | None, size: int | None, dry_run: bool, as_json: bool
) -> None:
    """Split a file of events by records or by size; pages are copied."""
    from dataclasses import replace

    from beamwright.cli.process import one_thread_each

    one_thread_each()
    from beamwright.durable import hash_file
    from beamwright.event.metadata import read_metadata
    from beamwright.event.splitting import parts_of, split_file
    from beamwright.event.store import Split

    limits = Split(events or 0, size or 0)
    if dry_run:
        found = ", ".join(str(n) for n in parts_of(source, limits))
        say(f"would write files of {found} records")
        return
    lineage = replace(read_metadata(source).lineage, parents=(hash_file(source).sha256,))
    written = split_file(source, output, limits, lineage)
    rows = [{"file": str(w.file), "events": w.events, "uuid": w.uuid, "size": w.size} for w in written]
    write_rows(rows, {"file": "file", "records": "events", "bytes": "size"}, as_json)


def metadata(path: Path) -> dict[str, Any]:
    """Return the metadata record of a file: lineage, banks, keys, counts."""
    from beamwright.core.bundle import MAGIC, unpack

    with path.open("rb") as stream:
        is_bundle = stream.read(4) == MAGIC
    if is_bundle:
        arrays, document = unpack(path.read_bytes(), str(path))
        table = [{"name": n, "type": str(a.dtype), "shape": list(a.shape)} for n, a in arrays.items()]
        return {"path": str(path), "kind": "bundle", "arrays": table, "document": document}
    from beamwright.event.metadata import metadata_of
    from beamwright.event.rntuple import NTupleFile

    with NTupleFile(path) as held:
        told: dict[str, Any] = {"path": str(path), "kind": "rntuple", "size": held.size}
        told |= metadata_of(held).document()
        fields = held.field_bytes()
    told["memory"] = sum(unpacked for _, unpacked in fields.values())
    for bank in told["banks"]:
        bank["size"], bank["memory"] = fields[bank["name"]]
    return told


def _registered(name: str, folder: Path | None) -> dict[str, Any]:
    from beamwright.catalog import files, metadata
    from beamwright.core.errors import UsageError
    from beamwright.db import schema, views

    if ":" not in name:
        raise UsageError(
            f"there is no file {name}", hint="give a path, or the name scope:name of a file of the workspace"
        )
    with reader(folder) as conn:
        row = views.files(conn, schema.file.c.id == files.show(conn, name).id)[0]
        said = metadata.of(conn, "file", [row["id"]])[row["id"]]
        parents = views.parents(conn, [row["id"]]).get(row["id"], [])
        children = views.children(conn, row["id"])
    names = ("kind", "tier", "size", "sha256", "adler32", "uuid", "endpoint", "path", "replica", "lineage")
    related: dict[str, Any] = {
        "parents": [p["name"] for p in parents],
        "children": [c["name"] for c in children],
    }
    related |= {"metadata": said} if said else {}
    return {"name": row["did"]} | {key: row[key] for key in names} | related


def _lines(document: dict[str, Any]) -> list[str]:
    from beamwright.report import text

    shown = dict(document)
    banks = shown.pop("banks", None)
    events = document.get("events")
    if banks and events:
        for name, what in (("size", "size per record"), ("memory", "memory per record")):
            shown[what] = round(shown[name] / events)
    lines = text.pairs(shown)
    if banks:
        lines += ["banks"]
        heads = ("bank", "rows", "columns", "bytes per record", "in memory", "what")
        lines += text.table(heads, [_bank_row(bank, events or 1) for bank in banks], indent="  ")
    return lines


def _bank_row(bank: dict[str, Any], events: int) -> list[Any]:
    sizes = [round(bank[name] / events) for name in ("size", "memory")]
    return [bank["name"], bank["rows"], len(bank["columns"]), *sizes, bank.get("doc", "")]
