"""``beamwright bank``: declarations of the tables of an event."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from beamwright.cli.common import Columns, Noun, json_option, write_document, write_rows
from beamwright.cli.experiment_option import experiment_option

if TYPE_CHECKING:
    from beamwright.event.banks import Bank, BankSet


@click.group(cls=Noun)
def bank() -> None:
    """Banks: the tables of an event."""


@bank.command("check")
@click.argument(
    "files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@json_option
def check(files: tuple[Path, ...], as_json: bool) -> None:
    """Check bank declarations (TOML) together; say what is wrong where."""
    from beamwright.event.banks import BankSet

    found = BankSet.load(*files)
    document = {
        "banks": sorted(found),
        "columns": sum(len(b.columns) for b in found.values()),
        "hash": found.hash,
    }
    columns = f"{document['columns']} columns"
    write_document(
        document, as_json, [f"{len(found)} banks with {columns} are declared well, hash {found.hash[:16]}"]
    )


in_option = click.option(
    "--in", "files", multiple=True, type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Declarations (TOML) or a file of data; may be repeated.",
)  # fmt: skip


@bank.command("ls")
@in_option
@experiment_option
@json_option
def ls(files: tuple[Path, ...], experiment: str | None, as_json: bool) -> None:
    """List the banks of an experiment, or of files."""
    rows = [{"name": name} | found.document() for name, found in _banks(files, experiment).items()]
    columns: Columns = {
        "bank": "name",
        "version": "version",
        "rows": "rows",
        "columns": lambda r: len(r["columns"]),
        "what": "doc",
    }
    write_rows(rows, columns, as_json)


@bank.command("show")
@click.argument("name")
@in_option
@experiment_option
@json_option
def show(name: str, files: tuple[Path, ...], experiment: str | None, as_json: bool) -> None:
    """Show a bank: its columns with types, units, links, and what they are in files written before them."""
    found = _banks(files, experiment)[name]
    document = {"name": name} | found.document()
    write_document(document, as_json, None if as_json else _lines(found))


def _banks(files: tuple[Path, ...], name: str | None) -> BankSet:
    """Return the banks that files declare, or those of an experiment."""
    from beamwright.cli.experiment_option import chosen
    from beamwright.event.banks import BankSet

    if not files:
        return chosen(name).banks
    return BankSet((found for file in files for found in _declared(file).values()), closed=False)


def _lines(found: Bank) -> list[str]:
    told = [(c, c.document()) for c in found.columns]
    rows: list[list[Any]] = [
        [c.name, said["type"], c.unit, c.link, json.dumps(said["default"]) if "default" in said else "",
         ", ".join(c.renamed), c.doc]
        for c, said in told
    ]  # fmt: skip
    names = f", before {', '.join(found.renamed)}" if found.renamed else ""
    head = [f"{found.name}{names}, version {found.version}, {found.rows} row(s) per record", found.doc, ""]
    return head + _table(("column", "type", "unit", "link to", "default", "before", "what"), rows)


def _table(names: tuple[str, ...], rows: list[list[Any]]) -> list[str]:
    """Lay out a table without those columns after the first two in which nothing stands."""
    from beamwright.report import text

    kept = [n for n in range(len(names)) if n < 2 or any(row[n] for row in rows)]
    return text.table([names[n] for n in kept], [[row[n] for n in kept] for row in rows])


@bank.command("diff")
@click.argument("old", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("new", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@json_option
def diff(old: Path, new: Path, as_json: bool) -> int:
    """Compare the banks of two files, declarations (TOML) or data: what changed, and is OLD still read?

    Ends with an error code where files with the OLD banks cannot be read as the NEW ones declare.
    """
    from dataclasses import asdict

    from beamwright.core.errors import SchemaMismatchError
    from beamwright.event.evolution import differences

    found = differences(_declared(old), _declared(new))
    columns: Columns = {
        "bank": "bank",
        "column": "column",
        "change": "change",
        "before": "before",
        "after": "after",
        "old files": lambda r: "read" if r["is_readable"] else "refused",
    }
    write_rows([asdict(difference) for difference in found], columns, as_json)
    return 0 if all(difference.is_readable for difference in found) else SchemaMismatchError.exit_code


def _declared(path: Path) -> BankSet:
    from beamwright.event.banks import BankSet
    from beamwright.event.metadata import read_metadata

    if path.suffix == ".toml":
        return BankSet.load(path, closed=False)
    return read_metadata(path).declarations
