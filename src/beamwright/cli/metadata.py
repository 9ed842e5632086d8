"""``beamwright metadata``: what people declare and say of runs, files, collections, datasets and tasks."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from beamwright.cli.asking import as_of_option
from beamwright.cli.common import (
    Columns,
    Noun,
    decided,
    dry_run_option,
    reader,
    reading,
    say,
    write_document,
    write_rows,
)

if TYPE_CHECKING:
    import sqlalchemy as sa

    from beamwright.production.interventions import Why


@click.group(cls=Noun)
def metadata() -> None:
    """Metadata: typed keys that people declare."""


@metadata.command("declare")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@dry_run_option
@reading
def declare(file: Path, dry_run: bool, folder: Path | None, as_json: bool) -> None:
    """Declare a kind of metadata, or widen one: name, subject, and a table [key.NAME] per key."""
    from beamwright.catalog import metadata as catalogue
    from beamwright.core.errors import ConfigError

    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file.name}: {error}", hint="it is a TOML file") from error

    def take(conn: sa.Connection, why: Why) -> Any:
        return catalogue.declare(conn, document, why.now, why.actor)

    kind = decided(folder, take, dry_run=dry_run)
    if dry_run:
        say(f"would declare {kind.name} of a {kind.subject} with {len(kind.keys)} keys")
    else:
        write_document(kind.document(), as_json)


@metadata.command("ls")
@reading
def ls(folder: Path | None, as_json: bool) -> None:
    """List the declared kinds and their keys."""
    from beamwright.catalog import metadata as catalogue

    with reader(folder) as conn:
        rows = [
            {"kind": kind.name, "subject": kind.subject} | key
            for kind in catalogue.kinds(conn).values()
            for key in kind.document()["keys"]
        ]
    columns: Columns = {
        "key": lambda r: f"{r['kind']}.{r['name']}",
        "subject": "subject",
        "type": "type",
        "unit": "unit",
        "required": "is_required",
        "indexed": "is_indexed",
        "what": "doc",
    }
    write_rows(rows, columns, as_json)


@metadata.command("show")
@click.argument("subject", type=click.Choice(["run", "file", "collection", "dataset", "task"]))
@click.argument("name")
@as_of_option
@reading
def show(subject: str, name: str, as_of: str | None, folder: Path | None, as_json: bool) -> None:
    """Show what is, or was at a time, said of an object."""
    from beamwright.catalog import metadata as catalogue
    from beamwright.core.clock import seconds_of

    with reader(folder) as conn:
        identity = _object(conn, subject, name)
        said = catalogue.of(conn, subject, [identity], None if as_of is None else seconds_of(as_of))[identity]
    write_document(said, as_json, None if said else ["nothing is said of it"])


@metadata.command("set")
@click.argument("subject", type=click.Choice(["run", "file", "collection", "dataset", "task"]))
@click.argument("name")
@click.argument("kind")
@click.argument("values", nargs=-1, required=True, metavar="KEY=VALUE...")
@dry_run_option
@reading
def set_(
    subject: str,
    name: str,
    kind: str,
    values: tuple[str, ...],
    dry_run: bool,
    folder: Path | None,
    as_json: bool,
) -> None:
    """Say something of an object; KEY= takes a key away. What was said before is kept with its time."""
    from beamwright.catalog import metadata as catalogue

    def tell(conn: sa.Connection, why: Why) -> dict[str, Any]:
        declared = catalogue.find_kind(conn, kind, subject)
        identity = _object(conn, subject, name)
        said = catalogue.of(conn, subject, [identity])[identity].get(kind, {})
        content: dict[str, Any] = declared.checked(_changed(declared, dict(said), values))
        catalogue.attach(conn, declared, {identity: content}, why.now, why.actor)
        return content

    content = decided(folder, tell, dry_run=dry_run)
    if dry_run:
        say(f"would say of {name}: {content}")
    else:
        write_document(content, as_json)


def _changed(kind: Any, said: dict[str, Any], values: tuple[str, ...]) -> dict[str, Any]:
    from beamwright.core.errors import UsageError

    for pair in values:
        name, equals, text = pair.partition("=")
        if not equals:
            raise UsageError(f"{pair!r} says nothing", hint="write key=value")
        if not text:
            said.pop(name, None)
            continue
        key = kind.keys.get(name)
        said[name] = text if key is None or key.type in ("text", "time") else _number(text)
    return said


def _number(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _object(conn: sa.Connection, subject: str, name: str) -> int:
    """Return the row number of an object by its name.

    Raises: UnknownNameError.
    """
    from beamwright.core.errors import UnknownNameError
    from beamwright.db import lookup

    if subject == "dataset":
        from beamwright.catalog import datasets

        return datasets.cited(conn, name).id
    found = [thing for thing in lookup.find(conn, name) if thing.kind == subject]
    if not found:
        raise UnknownNameError(subject, name, lookup.names(conn))
    return int(found[0].id)
