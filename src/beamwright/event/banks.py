"""Banks: the declared tables of an event.

A bank is declared in TOML and has the same form from raw data to the mini-DST::

    [bank.TrigHit]
    version = 1
    rows = "many"                # "one": exactly one row per record
    doc = "A hit that took part in the trigger."
    [bank.TrigHit.columns]
    tdc = { type = "u4", unit = "ns", doc = "Time within the frame." }
    snap = { type = "link", to = "SnapHit", doc = "The same hit in the snapshot." }
    residuals = { type = "f4[]", unit = "ns" }
    label = { type = "str", default = "" }

A link is the row number in the target bank of the same record, -1 for none. Each [] is one level of lists, of
which there may be two; text is UTF-8.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np

from beamwright.core.canonical import content_hash
from beamwright.core.errors import ConfigError, UnknownNameError, nearest

ONE, MANY = "one", "many"
LEAVES: dict[str, np.dtype[Any]] = {
    name: np.dtype(name if name == "bool" else f"<{name}")
    for name in ("u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f4", "f8", "bool")
}
LINK, TEXT = "link", "str"
MAX_DEPTH = 2
CHARS = np.dtype("u1")
RESERVED = frozenset(
    {"run", "section", "event", "parent_section", "parent_event"}
    | {"source_high", "source_low", "source_entry"}
)
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_BANK_KEYS = frozenset({"version", "rows", "doc", "columns", "renamed"})
_COLUMN_KEYS = frozenset({"type", "unit", "doc", "to", "default", "renamed"})
Default: TypeAlias = float | str | tuple[()] | None


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a bank; ``depth`` counts its levels of lists per row, ``link`` names the target bank.

    In files that were written before the column was declared, it has one of the names ``renamed``, or else
    the value ``default`` (None: such files cannot be read).
    """

    name: str
    type: str
    depth: int = 0
    unit: str = ""
    doc: str = ""
    link: str = ""
    default: Default = None
    renamed: tuple[str, ...] = ()

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the flat values; text is bytes."""
        return CHARS if self.is_text else LEAVES[self.type]

    @property
    def is_text(self) -> bool:
        return self.type == TEXT

    @property
    def levels(self) -> int:
        """The levels of offsets over the flat values: those of lists, and one for text."""
        return self.depth + self.is_text

    @property
    def jagged(self) -> bool:
        """Whether a row holds any number of flat values."""
        return self.levels > 0

    def document(self) -> dict[str, Any]:
        """Return the declaration as it is written in text."""
        kind = (LINK if self.link else self.type) + "[]" * self.depth
        text = {"unit": self.unit, "doc": self.doc, "to": self.link, "renamed": list(self.renamed)}
        default: dict[str, Any] = (
            {} if self.default is None else {"default": [] if self.depth else self.default}
        )
        return {"type": kind, **{key: value for key, value in text.items() if value}, **default}

    @classmethod
    def from_document(cls, name: str, document: Mapping[str, Any], where: str) -> Column:
        """Read one column's declaration; ``where`` names it in errors.

        Raises: ConfigError.
        """
        _known_keys(document, _COLUMN_KEYS, where)
        kind, target = str(document.get("type", "")), str(document.get("to", ""))
        leaf = kind.rstrip("[]")
        depth = (len(kind) - len(leaf)) // 2
        if kind != leaf + "[]" * depth or leaf not in (LINK, TEXT, *LEAVES):
            raise ConfigError(
                f"{where}: {kind!r} is no column type", hint=nearest(leaf, [*LEAVES, TEXT, LINK])
            )
        if depth > (1 if leaf == LINK else MAX_DEPTH):
            raise ConfigError(
                f"{where}: {kind!r} has {depth} levels of lists",
                hint="links have one at most, others two; make a bank of the inner lists",
            )
        if (leaf == LINK) != bool(target):
            raise ConfigError(
                f"{where}: type and target disagree", hint='a link is { type = "link", to = "Bank" }'
            )
        unit, doc = str(document.get("unit", "")), str(document.get("doc", ""))
        stored = "i4" if leaf == LINK else leaf
        default, renamed = _default(document, stored, depth, where), _old_names(document, where)
        return cls(name, stored, depth, unit, doc, target, default, renamed)


@dataclass(frozen=True)
class Places:
    """Where banks and columns are declared: a file, and the lines of its tables and keys by their names."""

    file: str = ""
    lines: Mapping[tuple[str, ...], int] = field(default_factory=dict)

    def name(self, bank: str, column: str = "") -> str:
        """Name a bank or column for an error: with file and line, as far as they are known."""
        path = ("bank", bank, "columns", column) if column else ("bank", bank)
        known = (self.lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in self.lines)
        line = next(known, None)
        place = f"{self.file}, line {line}: " if line else f"{self.file}: " if self.file else ""
        return f"{place}bank {bank}" + (f", column {column}" if column else "")


_HEADER = re.compile(r"\s*\[{1,2}\s*([^]]+?)\s*\]{1,2}\s*(#.*)?$")
_KEY = re.compile(r"""\s*((?:[\w-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[\w-]+|"[^"]*"|'[^']*'))*)\s*=""")


def _lines(text: str) -> dict[tuple[str, ...], int]:
    """Return the line on which each table or key of a TOML text stands first, by its path."""
    found: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), 1):
        header, key = _HEADER.match(line), _KEY.match(line)
        if header:
            path = table = _parts(header[1])
        elif key:
            path = table + _parts(key[1])
        else:
            continue
        for n in range(1, len(path) + 1):
            found.setdefault(path[:n], number)
    return found


def _parts(path: str) -> tuple[str, ...]:
    return tuple(part.strip().strip("\"'") for part in path.split("."))


@dataclass(frozen=True)
class Bank:
    """A table of an event: its columns in declared order, and whether it has one row per record or many."""

    name: str
    version: int
    rows: str
    doc: str
    columns: tuple[Column, ...]
    renamed: tuple[str, ...] = ()
    by_name: dict[str, Column] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_name", {column.name: column for column in self.columns})

    def __getitem__(self, name: str) -> Column:
        try:
            return self.by_name[name]
        except KeyError:
            raise UnknownNameError(f"column of bank {self.name}", name, self.by_name) from None

    @cached_property
    def links(self) -> tuple[Column, ...]:
        """The columns that point into other banks."""
        return tuple(column for column in self.columns if column.link)

    def document(self) -> dict[str, Any]:
        """Return the declaration in the form of the TOML text."""
        columns = {column.name: column.document() for column in self.columns}
        names = {"renamed": list(self.renamed)} if self.renamed else {}
        return {"version": self.version, "rows": self.rows, "doc": self.doc, "columns": columns, **names}

    @classmethod
    def from_document(
        cls, name: str, document: Mapping[str, Any], where: str = "", places: Places | None = None
    ) -> Bank:
        """Read one bank's declaration; ``where``, or better ``places``, names the file in errors.

        Raises: ConfigError.
        """
        places = places or Places(where)
        where = places.name(name)
        _known_keys(document, _BANK_KEYS, where)
        _check_name(name, where)
        if name in RESERVED:
            raise ConfigError(f"{where}: the name is reserved for the key of an event", hint="choose another")
        version, rows = document.get("version", 1), document.get("rows", MANY)
        if rows not in (ONE, MANY):
            raise ConfigError(f"{where}: rows is {rows!r}", hint=f'write "{ONE}" or "{MANY}"')
        if type(version) is not int or version < 1:
            raise ConfigError(f"{where}: version is {version!r}", hint="versions are whole numbers from 1")
        declared = document.get("columns") or {}
        if not declared:
            raise ConfigError(f"{where} has no column", hint="declare at least one under [bank.NAME.columns]")
        if not isinstance(declared, Mapping):
            raise ConfigError(f"{where}: columns is no table", hint="write [bank.NAME.columns]")
        columns = tuple(_column(key, value, places.name(name, key)) for key, value in declared.items())
        _check_old_names(columns, where)
        doc, renamed = str(document.get("doc", "")), _old_names(document, where)
        return cls(name, version, rows, doc, columns, renamed)


class BankSet(Mapping[str, Bank]):
    """Banks by name, whose links lead to banks of the same set."""

    def __init__(
        self, banks: Iterable[Bank] = (), *, closed: bool = True, places: Mapping[str, Places] | None = None
    ) -> None:
        self._banks: dict[str, Bank] = {}
        for bank in banks:
            if self._banks.setdefault(bank.name, bank) != bank:
                raise ConfigError(
                    f"bank {bank.name} is declared twice", hint="keep one declaration of each bank"
                )
        if closed:
            self._check_links(places or {})

    @classmethod
    def load(cls, *paths: Path | str, closed: bool = True) -> BankSet:
        """Read the banks declared in TOML files; links lead out of a set that is not closed.

        Raises: ConfigError naming file, bank and column.
        """
        banks: list[Bank] = []
        places: dict[str, Places] = {}
        for path in paths:
            loaded, place = _load(Path(path))
            twice = next((bank for bank in loaded if bank.name in places and bank not in banks), None)
            if twice is not None:
                first = places[twice.name].name(twice.name)
                raise ConfigError(
                    f"{place.name(twice.name)} is declared twice, first as {first}",
                    hint="keep one declaration of each bank",
                )
            banks += loaded
            places |= dict.fromkeys((bank.name for bank in loaded), place)
        return cls(banks, closed=closed, places=places)

    @classmethod
    def from_document(cls, document: Mapping[str, Any], where: str = "") -> BankSet:
        """Read the form that ``document()`` writes; its links may lead out of the set."""
        return cls((Bank.from_document(n, d, where) for n, d in document.items()), closed=False)

    def document(self) -> dict[str, Any]:
        """Return the declarations by bank name."""
        return {name: bank.document() for name, bank in self._banks.items()}

    @property
    def hash(self) -> str:
        return content_hash(self.document())

    def subset(self, names: Iterable[str]) -> BankSet:
        """Return the banks of these names, in this order; links may lead out of the set."""
        return BankSet((self[name] for name in names), closed=False)

    def union(self, other: BankSet) -> BankSet:
        """Return the banks of both sets."""
        return BankSet([*self.values(), *other.values()], closed=False)

    def __getitem__(self, name: str) -> Bank:
        try:
            return self._banks[name]
        except KeyError:
            raise UnknownNameError("bank", name, self._banks) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._banks)

    def __len__(self) -> int:
        return len(self._banks)

    def __contains__(self, name: object) -> bool:
        return name in self._banks

    def __repr__(self) -> str:
        return f"BankSet({', '.join(self._banks)})"

    def _check_links(self, places: Mapping[str, Places]) -> None:
        for bank in self._banks.values():
            for column in bank.links:
                if column.link not in self._banks:
                    where = places.get(bank.name, Places()).name(bank.name, column.name)
                    raise ConfigError(
                        f"{where}: its target {column.link!r} is not declared",
                        hint=nearest(column.link, self._banks),
                    )


def _load(path: Path) -> tuple[list[Bank], Places]:
    try:
        text = path.read_text(encoding="utf-8")
        document = tomllib.loads(text)
    except FileNotFoundError:
        raise ConfigError(f"there is no bank file {path}", hint="check the path") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no TOML: {error}", hint="mend it at the place named") from error
    places = Places(str(path), _lines(text))
    _known_keys(document, frozenset({"bank"}), str(path))
    banks = document.get("bank", {})
    if not isinstance(banks, dict):
        raise ConfigError(f"{path}: bank is no table", hint="write [bank.NAME]")
    return [Bank.from_document(name, value, places=places) for name, value in banks.items()], places


def _column(name: str, document: Any, where: str) -> Column:
    _check_name(name, where)
    if not isinstance(document, Mapping):
        raise ConfigError(f"{where}: {document!r} is no declaration", hint='write name = { type = "f4" }')
    return Column.from_document(name, document, where)


def _default(document: Mapping[str, Any], kind: str, depth: int, where: str) -> Default:
    """Return the value of a column in files without it: one that its type holds, [] for a list."""
    value = document.get("default")
    if value is None:
        return None
    if depth and isinstance(value, list) and not value:
        return ()
    if depth or not _holds(kind, value):
        raise ConfigError(
            f"{where}: default {value!r} is no {kind}{'[]' * depth}",
            hint="give a value of the column's type, [] for a list",
        )
    return cast(Default, value)


def _holds(kind: str, value: Any) -> bool:
    """Tell whether a value is one of a column type."""
    if kind == TEXT:
        return isinstance(value, str)
    dtype = LEAVES[kind]
    known = {"b": (bool,), "f": (int, float)}.get(dtype.kind, (int,))
    if not isinstance(value, known) or isinstance(value, bool) != (dtype.kind == "b"):
        return False
    if dtype.kind not in "iu":
        return True
    return bool(np.iinfo(dtype).min <= value <= np.iinfo(dtype).max)


def _old_names(document: Mapping[str, Any], where: str) -> tuple[str, ...]:
    names = document.get("renamed", [])
    if not isinstance(names, list) or not all(
        isinstance(name, str) and _NAME.fullmatch(name) for name in names
    ):
        raise ConfigError(f"{where}: renamed is {names!r}", hint='list the old names: renamed = ["old"]')
    return tuple(names)


def _check_old_names(columns: Iterable[Column], where: str) -> None:
    """Refuse an old name that a column has now, or that two claim: which one is meant would be a guess."""
    taken = {column.name: column.name for column in columns}
    for column in columns:
        for name in column.renamed:
            other = taken.setdefault(name, column.name)
            if other != column.name or name == column.name:
                raise ConfigError(
                    f"{where}: column {column.name} was called {name!r}, which column {other} claims too",
                    hint="give the column that came later another name",
                )


def _check_name(name: str, where: str) -> None:
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{where}: {name!r} is no name", hint="letters, digits and _, starting with a letter"
        )


def _known_keys(document: Any, known: frozenset[str], where: str) -> None:
    if not isinstance(document, Mapping):
        raise ConfigError(f"{where}: {document!r} is no table", hint="write it as a TOML table")
    for key in document:
        if key not in known:
            raise ConfigError(f"{where}: {key!r} is not known here", hint=nearest(str(key), known))
