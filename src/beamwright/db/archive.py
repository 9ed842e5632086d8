"""Backups: every table as lines in one file, taken while others write, for either kind of database.

The file is a zip of ``tables/NAME.tsv.zst`` and ``manifest.json``, which holds the schema's revision and each
table's columns, rows and sha256: common tools can open it when nothing else is left.
"""

from __future__ import annotations

import json
import secrets
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import sqlalchemy as sa
import zstandard

from beamwright.core.canonical import canonical_json
from beamwright.core.errors import ChecksumError, ConflictError, FormatError, StorageError
from beamwright.db import migrations, moving, rows
from beamwright.db.engine import Database
from beamwright.db.migrations import guards
from beamwright.db.rows import Shape, Tally
from beamwright.durable import PARTIAL

FORMAT = 1
_MANIFEST = "manifest.json"
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Archive:
    """A backup: where it lies, the revision and moment that it holds, and its tables in order."""

    path: Path
    revision: str
    taken: float
    tables: tuple[tuple[Shape, dict[str, Any]], ...]

    @property
    def rows(self) -> int:
        """The number of all rows."""
        return sum(int(tally["rows"]) for _, tally in self.tables)

    def blocks(self, shape: Shape) -> Iterator[bytes]:
        """Yield the lines of a table in blocks of whole lines."""
        with _opened(self.path) as archive, archive.open(_member(shape)) as packed:
            rest = b""
            for block in _unpacked(packed, self.path):
                whole, feed, tail = block.rpartition(b"\n")
                if feed:
                    yield rest + whole + feed
                    rest = b""
                rest += tail
        if rest:
            raise FormatError(
                f"{self.path}: table {shape.name} ends within a line", hint="use another backup"
            )


def write(database: Database, path: Path, taken: float) -> Archive:
    """Back a database up, as it is at one moment, into a new file; others go on writing.

    Raises: ConflictError when the file is there, StorageError when it cannot be written.
    """
    if path.exists():
        raise ConflictError(f"{path} exists already", hint="choose another name")
    part = path.parent / f".{path.name}.{secrets.token_hex(6)}{PARTIAL}"
    try:
        with database.read() as conn, zipfile.ZipFile(part, "x", zipfile.ZIP_STORED) as archive:
            revision = migrations.current(conn) or ""
            tables = [(shape, _pack(archive, shape, conn)) for shape in rows.shapes(conn)]
            archive.writestr(_info(_MANIFEST), canonical_json(_manifest(revision, taken, tables)))
        moving.publish(part, path)
    except OSError as error:
        raise StorageError(
            f"{path} cannot be written: {error.strerror or error}", hint="make room"
        ) from error
    finally:
        with suppress(FileNotFoundError):
            part.unlink()
    return Archive(path, revision, taken, tuple(tables))


def read(path: Path) -> Archive:
    """Open a backup.

    Raises: FormatError when it is none, or is of a newer release.
    """
    with _opened(path) as archive:
        try:
            manifest = json.loads(archive.read(_MANIFEST))
            found = _understood(path, manifest)
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(f"{path} is no sound backup: {error}", hint="use another one") from error
    if found.revision not in migrations.known():
        raise FormatError(
            f"{path} has schema {found.revision}; this beamwright knows schemas up to {migrations.HEAD}",
            hint="a newer beamwright wrote it: use that one",
        )
    return found


def restore(archive: Archive, target: sa.URL, tell: Callable[[str], None]) -> dict[str, dict[str, Any]]:
    """Write a backup into an empty database and verify it there; return rows and sha256 by table.

    A backup of an older schema is upgraded after it was verified. Nothing is left when something goes wrong.

    Raises: ConflictError when the target is not empty, FormatError, ChecksumError.
    """
    with moving.filling(target, archive.revision) as conn:
        _check_shapes(archive, conn)
        for shape, wanted in archive.tables:
            rows.write(conn, shape, archive.blocks(shape))
            found = Tally().over(rows.read(conn, shape)).document()
            if found != wanted:
                message = f"{archive.path}: table {shape.name} holds {found['rows']} rows of other content"
                raise ChecksumError(
                    f"{message} than the {wanted['rows']} of its manifest", hint="use another"
                )
            if found["rows"]:
                tell(f"{shape.name}: {found['rows']} rows, as they were saved")
        rows.set_sequences(conn, [shape for shape, _ in archive.tables])
        migrations.upgrade(conn)
    return {shape.name: tally for shape, tally in archive.tables}


def lost_since(archive: Archive, conn: sa.Connection) -> list[str]:
    """Return the rows of append-only tables that a backup holds and the database does not, or not so."""
    kept = {*guards.APPEND_ONLY, *guards.APPEND_ONLY_SINCE_0002}
    here = {shape.name for shape in rows.shapes(conn)}
    found = []
    for shape, _ in archive.tables:
        if shape.name in kept & here:
            with closing(rows.lines(rows.read(conn, shape))) as live:
                saved = rows.lines(archive.blocks(shape))
                found += [f"{shape.name} {rows.key_of(shape, line)}" for line in _missing(shape, saved, live)]
    return found


def _missing(shape: Shape, saved: Iterator[bytes], live: Iterator[bytes]) -> Iterator[bytes]:
    """Yield saved lines that are not live, or not so; both come in the order of the key."""
    key = rows.sort_key(shape)
    now = next(live, None)
    for line in saved:
        wanted = key(line)
        while now is not None and key(now) < wanted:
            now = next(live, None)
        if now != line:
            yield line


def _pack(archive: zipfile.ZipFile, shape: Shape, conn: sa.Connection) -> dict[str, Any]:
    tally = Tally()
    with archive.open(_info(_member(shape)), "w", force_zip64=True) as member:
        with zstandard.ZstdCompressor(level=3).stream_writer(member, closefd=False) as packed:
            for block in tally.through(rows.read(conn, shape)):
                packed.write(block)
    return tally.document()


def _manifest(revision: str, taken: float, tables: list[tuple[Shape, dict[str, Any]]]) -> dict[str, Any]:
    listed = [shape.document() | tally for shape, tally in tables]
    return {"format": FORMAT, "revision": revision, "taken": taken, "tables": listed}


def _understood(path: Path, manifest: dict[str, Any]) -> Archive:
    if manifest["format"] != FORMAT:
        raise ValueError(f"its form is {manifest['format']}, not {FORMAT}")
    tables = [
        (Shape.of(table), {"rows": int(table["rows"]), "sha256": str(table["sha256"])})
        for table in manifest["tables"]
    ]
    return Archive(path, str(manifest["revision"]), float(manifest["taken"]), tuple(tables))


def _check_shapes(archive: Archive, conn: sa.Connection) -> None:
    """Refuse a manifest that names other tables or columns than its revision has."""
    wanted = {shape.name: (set(shape.columns), shape.key) for shape in rows.shapes(conn)}
    found = {shape.name: (set(shape.columns), shape.key) for shape, _ in archive.tables}
    if wanted != found:
        differing = sorted(n for n in wanted.keys() | found.keys() if wanted.get(n) != found.get(n))
        message = f"{archive.path}: {', '.join(differing)} are not as in schema {archive.revision}"
        raise FormatError(message, hint="use another backup")


def _member(shape: Shape) -> str:
    return f"tables/{shape.name}.tsv.zst"


def _info(name: str) -> zipfile.ZipInfo:
    """Return a member's head that says no time."""
    return zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except FileNotFoundError as error:
        raise StorageError(f"there is no backup {path}", hint="`beamwright db backups` lists them") from error
    except (zipfile.BadZipFile, KeyError) as error:
        raise FormatError(f"{path} is no sound backup: {error}", hint="use another one") from error


def _unpacked(packed: IO[bytes], path: Path) -> Iterator[bytes]:
    try:
        with zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True) as stream:
            while block := stream.read(_BLOCK):
                yield block
    except zstandard.ZstdError as error:
        raise ChecksumError(f"{path} is damaged: {error}", hint="use another backup") from error
