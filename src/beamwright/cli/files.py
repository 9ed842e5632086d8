"""``beamwright validate`` and ``beamwright merge``: the store's own commands, without a workspace."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from beamwright.cli.common import (
    dry_run_option,
    json_option,
    output_option,
    say,
    sources_option,
    write_document,
)

FILES = click.argument(
    "files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)


@click.command()
@FILES
@click.option("--expect", "expected", metavar="JSON", help="What each file has to be, as a JSON object.")
@click.option(
    "--banks",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Declarations (TOML) as which the banks must be readable; may be repeated.",
)
@sources_option
@click.option(
    "--verdict",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write each verdict to FOLDER/<file>.verdict.json too.",
    metavar="FOLDER",
)
@json_option
def validate(
    files: tuple[Path, ...],
    expected: str | None,
    banks: tuple[Path, ...],
    sources: tuple[Path, ...],
    folder: Path | None,
    as_json: bool,
) -> int:
    """Check output files in full."""
    from beamwright.cli.progress import each
    from beamwright.core.errors import ValidationError
    from beamwright.event.banks import BankSet
    from beamwright.event.sources import SourceFiles
    from beamwright.production import work

    found = SourceFiles.of(sources) if sources else None
    wanted = _expected(expected) | ({"banks": BankSet.load(*banks)} if banks else {})
    verdicts = [work.validate([path], wanted, found)[0] for path in each(files, "files")]
    if folder is not None:
        _write_verdicts(folder, verdicts)
    for path, verdict in zip(files, verdicts, strict=True):
        click.echo(json.dumps(verdict, sort_keys=True) if as_json else _line(path, verdict))
        if not as_json and found is None and verdict["valid"] and _leads_elsewhere(path):
            say(f"{path}: what it points to was not looked at; --sources PLACE has it followed")
    bad = any(not verdict["valid"] for verdict in verdicts)
    return ValidationError.exit_code if bad else 0


@click.command()
@FILES
@output_option("The file to write.")
@click.option(
    "--interleave", is_flag=True, help="Join files whose keys lie between each other's, written anew."
)
@dry_run_option
@json_option
def merge(files: tuple[Path, ...], output: Path, interleave: bool, dry_run: bool, as_json: bool) -> None:
    """Merge output files of one group into one."""
    from dataclasses import replace

    from beamwright.cli.process import one_thread_each
    from beamwright.cli.progress import each

    one_thread_each()
    from beamwright.durable import hash_file
    from beamwright.event import interleave as interleaving
    from beamwright.event.store import check_lineages, describe_files, joined_interval, merge_collections

    described = list(describe_files(files))
    check_lineages(described, may_overlap=interleave)
    if dry_run:
        say(f"would merge {sum(m.events for m, _ in described)} records of {len(files)} files into {output}")
        return
    parents = tuple(sorted(hash_file(path).sha256 for path in each(files, "files")))
    join = interleaving.interleave if interleave else merge_collections
    interval = joined_interval(m.lineage for m, _ in described)
    lineage = replace(described[0][0].lineage, parents=parents, interval=interval, quarantined=())
    written = join(files, output, lineage)
    document = {
        "file": str(written.file),
        "events": written.events,
        "uuid": written.uuid,
        "size": written.size,
    }
    write_document(document, as_json, [f"{written.file}: {written.events} records, {written.size} bytes"])


def _leads_elsewhere(path: Path) -> bool:
    """Tell whether a file is a pointer skim."""
    from beamwright.core.errors import FormatError
    from beamwright.event.metadata import read_metadata

    try:
        return bool(read_metadata(path).points)
    except FormatError:  # what is valid and no file of events, such as histograms
        return False


def _write_verdicts(folder: Path, verdicts: list[dict[str, Any]]) -> None:
    """Write one document per file; those of two files of one name would be one."""
    from beamwright.core.canonical import canonical_json
    from beamwright.core.errors import UsageError
    from beamwright.durable import make_directory, replace

    names = [verdict["file"] for verdict in verdicts]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(
            f"two files are called {twice[0]}: their verdicts would be too", hint="validate them one by one"
        )
    make_directory(folder)
    for verdict in verdicts:
        replace(folder / f"{verdict['file']}.verdict.json", canonical_json(verdict))


def _expected(text: str | None) -> dict[str, Any]:
    from beamwright.core.errors import UsageError

    try:
        found = json.loads(text or "{}")
    except json.JSONDecodeError as error:
        raise UsageError(
            f"--expect is not JSON: {error}", hint='write an object, as in {"events": 10}'
        ) from error
    if not isinstance(found, dict):
        raise UsageError("--expect is no JSON object", hint='write an object, as in {"events": 10}')
    return found


def _line(path: Path, verdict: dict[str, Any]) -> str:
    state = (
        click.style("valid", fg="green")
        if verdict["valid"]
        else click.style("not valid", fg="red", bold=True)
    )
    problems = "".join(f"\n  {problem}" for problem in verdict["problems"])
    return f"{path}: {state}, {verdict['events']} records, sha256 {verdict['sha256'][:16]}{problems}"
