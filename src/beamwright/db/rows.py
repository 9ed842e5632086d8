"""Rows of whole tables as lines of text: read in key order, written in bulk, counted and hashed.

A line has the text form of PostgreSQL's COPY, with floats as Python writes them; text and documents are
copied letter by letter. Equal tables give equal lines on both databases: this is what moving, backing up and
comparing rest on.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

import sqlalchemy as sa

from beamwright.core.errors import FormatError, IntegrityError, StorageError

ROWS_AT_ONCE = 2000
BLOCK = 1 << 18
_NULL = r"\N"
_ESCAPES = {"\\": r"\\", "\b": r"\b", "\f": r"\f", "\n": r"\n", "\r": r"\r", "\t": r"\t", "\v": r"\v"}
_PLAIN = {escaped: char for char, escaped in _ESCAPES.items()}
_TABLE = str.maketrans(_ESCAPES)
_is_special = re.compile(r"[\\\b\f\n\r\t\v]").search
_ESCAPED = re.compile(r"\\(.)")


@dataclass(frozen=True)
class Shape:
    """A table as it is copied: its columns with their kinds (int, real, flag, bytes, text), and its key."""

    name: str
    columns: tuple[tuple[str, str], ...]
    key: tuple[str, ...]

    @property
    def table(self) -> sa.TableClause:
        """The table for statements."""
        return sa.table(self.name, *(sa.column(name) for name, _ in self.columns))

    def document(self) -> dict[str, Any]:
        """Return a JSON-ready form."""
        return {"name": self.name, "columns": [list(c) for c in self.columns], "key": list(self.key)}

    @classmethod
    def of(cls, document: dict[str, Any]) -> Shape:
        """Read the JSON-ready form."""
        columns = tuple((str(name), str(kind)) for name, kind in document["columns"])
        return cls(str(document["name"]), columns, tuple(map(str, document["key"])))


@dataclass
class Tally:
    """How many lines have passed, and the hash over them."""

    rows: int = 0
    _sha256: Any = field(default_factory=hashlib.sha256)

    def through(self, blocks: Iterable[bytes]) -> Iterator[bytes]:
        """Pass blocks on and take note of them."""
        for block in blocks:
            self.rows += block.count(b"\n")
            self._sha256.update(block)
            yield block

    def over(self, blocks: Iterable[bytes]) -> Tally:
        """Take note of all blocks."""
        for _ in self.through(blocks):
            pass
        return self

    def document(self) -> dict[str, Any]:
        """Return rows and sha256."""
        return {"rows": self.rows, "sha256": self._sha256.hexdigest()}


def shapes(conn: sa.Connection) -> list[Shape]:
    """Return the tables that a database of any revision holds, each after those that it refers to."""
    found = sa.inspect(conn)
    names = set(found.get_table_names()) - {"alembic_version"}
    refers = {n: {f["referred_table"] for f in found.get_foreign_keys(n)} - {n} for n in names}
    order: list[str] = []
    while left := sorted(names - set(order)):
        ready = [name for name in left if refers[name] <= set(order)]
        if not ready:
            raise FormatError(f"tables {', '.join(left)} refer to each other in a circle", hint="report this")
        order += ready
    return [_shape(found, name) for name in order]


def read(conn: sa.Connection, shape: Shape) -> Iterator[bytes]:
    """Yield the lines of a table in the order of its key, in blocks of whole lines."""
    blocks = _read_postgresql if conn.dialect.name == "postgresql" else _read_sqlite
    return blocks(conn, shape)


def write(conn: sa.Connection, shape: Shape, blocks: Iterable[bytes]) -> None:
    """Insert lines into a table.

    Raises: FormatError when the database does not take a value.
    """
    put = _write_postgresql if conn.dialect.name == "postgresql" else _write_sqlite
    try:
        put(conn, shape, blocks)
    except UnicodeDecodeError as error:
        raise FormatError(f"table {shape.name}: {error}", hint="its lines are not UTF-8") from error


def lines(blocks: Iterable[bytes]) -> Generator[bytes]:
    """Split blocks into their lines."""
    for block in blocks:
        yield from block.splitlines(keepends=True)


def set_sequences(conn: sa.Connection, tables: Sequence[Shape]) -> None:
    """Let new rows be numbered after those that were written with their numbers."""
    if conn.dialect.name != "postgresql":
        return
    for shape in tables:
        sequence = sa.func.pg_get_serial_sequence(shape.name, "id")
        if "id" in shape.key and shape.columns[0] == ("id", "int") and conn.scalar(sa.select(sequence)):
            last = conn.scalar(sa.select(sa.func.max(shape.table.c.id)))
            conn.execute(sa.select(sa.func.setval(sequence, last or 1, last is not None)))
    conn.exec_driver_sql("ANALYZE")


def compare(one: sa.Connection, other: sa.Connection, shape: Shape) -> dict[str, Any]:
    """Return rows and sha256 of a table that two databases hold alike.

    Raises: IntegrityError, naming the first row that differs.
    """
    found = [Tally().over(read(conn, shape)).document() for conn in (one, other)]
    if found[0] == found[1]:
        return found[0]
    here, there = _first_difference(one, other, shape)
    raise IntegrityError(
        f"table {shape.name} differs from row {key_of(shape, here or there)} on: "
        f"{found[0]['rows']} and {found[1]['rows']} rows",
        hint="nothing was switched; run the command again, and report it if it stays",
        table=shape.name,
        here=here.decode(errors="replace"),
        there=there.decode(errors="replace"),
    )


def _first_difference(one: sa.Connection, other: sa.Connection, shape: Shape) -> tuple[bytes, bytes]:
    with closing(lines(read(one, shape))) as mine, closing(lines(read(other, shape))) as theirs:
        pairs = zip_longest(mine, theirs, fillvalue=b"")
        return next((pair for pair in pairs if pair[0] != pair[1]), (b"", b""))


def sort_key(shape: Shape) -> Callable[[bytes], tuple[Any, ...]]:
    """Return what orders the lines of a table as ``read`` does."""
    kinds, names = dict(shape.columns), [name for name, _ in shape.columns]
    parts = [
        (names.index(name), str.encode if kinds[name] == "text" else _DECODE[kinds[name]])
        for name in shape.key
    ]

    def key(line: bytes) -> tuple[Any, ...]:
        values = line.decode().rstrip("\n").split("\t")
        return tuple(get(_get_text(values[at]) or "") for at, get in parts)

    return key


def key_of(shape: Shape, line: bytes) -> str:
    """Return the key of a line, for people."""
    values = line.decode(errors="replace").rstrip("\n").split("\t")
    at = {name: position for position, (name, _) in enumerate(shape.columns)}
    return ", ".join(values[at[name]] for name in shape.key if at[name] < len(values)) or "?"


def _shape(found: sa.Inspector, name: str) -> Shape:
    key = found.get_pk_constraint(name)["constrained_columns"]
    columns = tuple((column["name"], _kind(column["type"])) for column in found.get_columns(name))
    return Shape(name, columns, tuple(key))


def _kind(kind: sa.types.TypeEngine[Any]) -> str:
    for name, types in _KINDS.items():
        if isinstance(kind, types):
            return name
    raise FormatError(f"a column has type {kind}, which is not copied", hint="report this")


_KINDS: dict[str, tuple[type[Any], ...]] = {
    "flag": (sa.Boolean,),
    "int": (sa.Integer,),
    "real": (sa.Float,),
    "bytes": (sa.LargeBinary,),
    "text": (sa.String, sa.JSON),
}


# --- SQLite --------------------------------------------------------------------------------------


def _read_sqlite(conn: sa.Connection, shape: Shape) -> Iterator[bytes]:
    table = shape.table
    query = sa.select(*table.c).order_by(*(table.c[name] for name in shape.key))
    cursor = conn.connection.cursor()
    encode = [_ENCODE[kind] for _, kind in shape.columns]
    try:
        cursor.execute(str(query.compile(dialect=conn.dialect)))
        while rows := cursor.fetchmany(ROWS_AT_ONCE):
            text = "\n".join(
                ["\t".join([put(value) for put, value in zip(encode, row, strict=True)]) for row in rows]
            )
            yield f"{text}\n".encode()
    except UnicodeEncodeError as error:
        raise FormatError(f"table {shape.name}: {error}", hint="mend the row that holds it") from error
    finally:
        cursor.close()


def _write_sqlite(conn: sa.Connection, shape: Shape, blocks: Iterable[bytes]) -> None:
    statement = str(sa.insert(shape.table).compile(dialect=conn.dialect))
    decode = [_DECODE[kind] for _, kind in shape.columns]
    for block in blocks:
        rows = [
            tuple([get(value) for get, value in zip(decode, line.split("\t"), strict=True)])
            for line in block.decode().split("\n")[:-1]
        ]
        if rows:
            conn.exec_driver_sql(statement, rows)


def _put_text(value: str | None) -> str:
    if value is None:
        return _NULL
    return value.translate(_TABLE) if _is_special(value) else value


def _get_text(text: str) -> str | None:
    if "\\" not in text:
        return text
    return None if text == _NULL else _ESCAPED.sub(lambda found: _PLAIN[found[0]], text)


def _put_real(value: float | None) -> str:
    return _NULL if value is None else _real(value)


def _real(value: float) -> str:
    """Write a float; SQLite does not keep the sign of a zero, so nobody has one."""
    return repr(value + 0.0)


def _or_null(get: Callable[[str], Any]) -> Callable[[str], Any]:
    return lambda text: None if text == _NULL else get(text)


_ENCODE: dict[str, Callable[[Any], str]] = {
    "int": lambda value: _NULL if value is None else str(value),
    "real": _put_real,
    "flag": lambda value: _NULL if value is None else "t" if value else "f",
    "bytes": lambda value: _NULL if value is None else r"\\x" + bytes(value).hex(),
    "text": _put_text,
}
_DECODE: dict[str, Callable[[str], Any]] = {
    "int": _or_null(int),
    "real": _or_null(float),
    "flag": _or_null("t".__eq__),
    "bytes": _or_null(lambda text: bytes.fromhex(text.removeprefix(r"\\x"))),
    "text": _get_text,
}


# --- PostgreSQL ----------------------------------------------------------------------------------


def _read_postgresql(conn: sa.Connection, shape: Shape) -> Iterator[bytes]:
    from psycopg import sql

    kinds = dict(shape.columns)
    order = [
        sql.SQL("{} COLLATE {}").format(sql.Identifier(name), sql.Identifier("C"))
        if kinds[name] == "text"
        else sql.Identifier(name)
        for name in shape.key
    ]
    statement = sql.SQL("COPY (SELECT {} FROM {} ORDER BY {}) TO STDOUT").format(
        sql.SQL(", ").join(map(sql.Identifier, kinds)),
        sql.Identifier(shape.name),
        sql.SQL(", ").join(order),
    )
    reals = [position for position, (_, kind) in enumerate(shape.columns) if kind == "real"]
    blocks = _whole_lines(_copied(conn, shape, statement))
    return (_plain_reals(block, reals) for block in blocks) if reals else blocks


def _copied(conn: sa.Connection, shape: Shape, statement: Any) -> Iterator[bytes]:
    with _named(shape), _driver(conn).cursor() as cursor, cursor.copy(statement) as copy:
        for chunk in copy:
            yield bytes(chunk)


def _whole_lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Gather rows, which come one by one, into blocks; a row always ends with a line feed."""
    held: list[bytes] = []
    size = 0
    for chunk in chunks:
        held.append(chunk)
        size += len(chunk)
        if size >= BLOCK and chunk.endswith(b"\n"):
            yield b"".join(held)
            held, size = [], 0
    if held:
        yield b"".join(held)


def _plain_reals(block: bytes, reals: Sequence[int]) -> bytes:
    found = []
    for line in block.split(b"\n")[:-1]:
        values = line.split(b"\t")
        for position in reals:
            if values[position] != rb"\N":
                values[position] = _real(float(values[position])).encode()
        found.append(b"\t".join(values))
    return b"\n".join(found) + b"\n"


def _write_postgresql(conn: sa.Connection, shape: Shape, blocks: Iterable[bytes]) -> None:
    from psycopg import sql

    names = sql.SQL(", ").join(sql.Identifier(name) for name, _ in shape.columns)
    statement = sql.SQL("COPY {} ({}) FROM STDIN").format(sql.Identifier(shape.name), names)
    with _named(shape), _driver(conn).cursor() as cursor, cursor.copy(statement) as copy:
        for block in blocks:
            copy.write(block)


@contextmanager
def _named(shape: Shape) -> Iterator[None]:
    """Give the driver's errors names of ours: its own cursor is not watched over by SQLAlchemy."""
    import psycopg

    try:
        yield
    except psycopg.DataError as error:
        message = f"table {shape.name} holds a value that PostgreSQL does not take: {error}"
        raise FormatError(message, hint="mend the row that it names") from error
    except psycopg.IntegrityError as error:
        message = f"table {shape.name} holds a row that does not fit the others: {error}"
        raise FormatError(message, hint="check the source with `beamwright fsck`") from error
    except psycopg.OperationalError as error:
        message = f"the database was lost while table {shape.name} was copied: {error}"
        raise StorageError(message, hint="nothing was kept; run the command again") from error


def _driver(conn: sa.Connection) -> Any:
    return conn.connection.driver_connection
