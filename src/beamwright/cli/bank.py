"""``beamwright bank``: declarations of the tables of an event."""

from __future__ import annotations

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


@bank.command("ls")
@experiment_option
@json_option
def ls(experiment: str | None, as_json: bool) -> None:
    """List the banks of an experiment."""
    rows = [{"name": name} | found.document() for name, found in _banks(experiment).items()]
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
@experiment_option
@json_option
def show(name: str, experiment: str | None, as_json: bool) -> None:
    """Show a bank: its columns with types, units and links."""
    found = _banks(experiment)[name]
    document = {"name": name} | found.document()
    write_document(document, as_json, None if as_json else _lines(found))


def _banks(name: str | None) -> BankSet:
    from beamwright.cli.experiment_option import chosen

    return chosen(name).banks


def _lines(found: Bank) -> list[str]:
    from beamwright.report import text

    rows: list[list[Any]] = [
        [c.name, c.document()["type"], c.unit, getattr(c, "link", None) or "", c.doc] for c in found.columns
    ]
    head = [f"{found.name}, version {found.version}, {found.rows} row(s) per record", found.doc, ""]
    return head + text.table(("column", "type", "unit", "link to", "what"), rows)


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
