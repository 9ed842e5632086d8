"""Schema evolution: banks as files have them, read as they are declared now.

A column that was added has its declared default, one that was renamed is found under its old name, one that
was removed is not read. A column that changed its type, unit or shape is another column: it is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from beamwright.core.errors import SchemaMismatchError
from beamwright.event.banks import Bank, BankSet, Column
from beamwright.event.table import Jagged, Table, Values, no_lists


@dataclass(frozen=True)
class Route:
    """How a bank of a file becomes the declared one; ``sources`` names each column's stored one, or None."""

    stored: Bank
    target: Bank
    sources: dict[str, str | None]

    @property
    def needed(self) -> Bank:
        """The stored bank with the columns that are read: at least one, for its number of rows."""
        wanted = {name for name in self.sources.values() if name is not None}
        columns = tuple(column for column in self.stored.columns if column.name in wanted)
        return Bank(
            self.stored.name, self.stored.version, self.stored.rows, self.stored.doc,
            columns or self.stored.columns[:1],
        )  # fmt: skip

    def table(self, stored: Table) -> Table:
        """Return a stored table as declared."""
        columns = {
            column.name: _constant(column, stored.rows)
            if (name := self.sources[column.name]) is None
            else stored.columns[name]
            for column in self.target.columns
        }
        return Table._made(self.target, stored.offsets, columns)


class Evolution:
    """The way from the banks of a file to those that are wanted; without the latter, as they are."""

    def __init__(self, stored: BankSet, wanted: BankSet | None, where: str) -> None:
        self.routes: dict[str, Route] = {}
        old_names = {} if wanted is None else _old_names(wanted, stored)
        for bank in stored.values():
            target = bank if wanted is None else _target(bank.name, wanted, old_names)
            if target is not None:
                self.routes[target.name] = _route(bank, target, old_names, where)
        self.declarations = BankSet((route.target for route in self.routes.values()), closed=False)

    def needed(self, names: Iterable[str]) -> BankSet:
        """Return what to read of the file for the declared banks of these names."""
        return BankSet((self.routes[name].needed for name in names), closed=False)

    def tables(self, stored: Mapping[str, Table], names: Iterable[str]) -> dict[str, Table]:
        """Return the declared tables of these names out of the stored ones."""
        return {name: self.routes[name].table(stored[self.routes[name].stored.name]) for name in names}


def united(declared: BankSet | None, stored: BankSet | None) -> BankSet | None:
    """Return the declared banks, and those of files that the declarations do not mention."""
    if declared is None or stored is None:
        return stored if declared is None else declared
    taken = {name for bank in declared.values() for name in (bank.name, *bank.renamed)}
    others = (bank for bank in stored.values() if bank.name not in taken)
    return BankSet([*declared.values(), *others], closed=False)


def _old_names(wanted: BankSet, stored: BankSet) -> dict[str, str]:
    """Return the present name for each stored name that is an old one."""
    return {
        old: bank.name
        for bank in wanted.values()
        if bank.name not in stored
        for old in bank.renamed
        if old in stored and old not in wanted
    }


def _target(name: str, wanted: BankSet, old_names: Mapping[str, str]) -> Bank | None:
    present = old_names.get(name, name)
    return wanted.get(present)


def _route(stored: Bank, target: Bank, old_names: Mapping[str, str], where: str) -> Route:
    if stored.rows != target.rows:
        raise SchemaMismatchError(
            f"{where}: bank {stored.name} has rows {stored.rows!r}, declared is {target.rows!r}",
            hint="give the bank another name, or read the file with the release that wrote it",
        )
    sources = {column.name: source_of(column, stored) for column in target.columns}
    for column in target.columns:
        name = sources[column.name]
        problem = _problem(column, None if name is None else stored[name], old_names)
        if problem:
            raise SchemaMismatchError(
                f"{where}: column {target.name}.{column.name} (version {target.version}) {problem} "
                f"in the file (version {stored.version})",
                hint='declare default = … for a new column, renamed = ["…"] for a renamed one, '
                "and another name where the type changes",
            )
    return Route(stored, target, sources)


def source_of(column: Column, stored: Bank) -> str | None:
    """Return the name under which a stored bank has a column, None where it has none."""
    return next((name for name in (column.name, *column.renamed) if name in stored.by_name), None)


def _problem(column: Column, stored: Column | None, old_names: Mapping[str, str]) -> str:
    if stored is None:
        return "" if column.default is not None else "is not"
    link = old_names.get(stored.link, stored.link)
    if (stored.type, stored.depth, link) != (column.type, column.depth, column.link):
        return f"is {column.document()['type']}, and {stored.document()['type']}"
    return (
        ""
        if stored.unit == column.unit
        else f"is in {column.unit or 'no unit'}, and in {stored.unit or 'none'}"
    )


def _constant(column: Column, rows: int) -> Values:
    if column.depth:
        return no_lists(column, rows, column.levels)
    if column.is_text:
        return Jagged.from_text([str(column.default)] * rows)
    return np.full(rows, column.default, column.dtype)


@dataclass(frozen=True)
class Difference:
    """One change between two declarations; ``is_readable``: files of the old one are still read."""

    bank: str
    column: str
    change: str
    before: str
    after: str
    is_readable: bool = True


def differences(old: BankSet, new: BankSet) -> list[Difference]:
    """Return the changes from one set of declarations to another, bank by bank."""
    old_names = _old_names(new, old)
    found: list[Difference] = []
    for bank in old.values():
        target = _target(bank.name, new, old_names)
        if target is None:
            found.append(Difference(bank.name, "", "bank removed", bank.name, ""))
            continue
        if target.name != bank.name:
            found.append(Difference(target.name, "", "bank renamed", bank.name, target.name))
        found += _bank_differences(bank, target, old_names)
    kept = {old_names.get(name, name) for name in old}
    found += [Difference(name, "", "bank added", "", name) for name in new if name not in kept]
    return found


def _bank_differences(old: Bank, new: Bank, old_names: Mapping[str, str]) -> Iterator[Difference]:
    if old.rows != new.rows:
        yield Difference(new.name, "", "rows changed", old.rows, new.rows, False)
    used = set()
    begun = False
    for column in new.columns:
        name = source_of(column, old)
        used.add(name)
        for difference in _column_differences(new.name, column, name and old[name], old_names):
            begun = True
            yield difference
    for column in old.columns:
        if column.name not in used:
            begun = True
            yield Difference(new.name, column.name, "column removed", column.document()["type"], "")
    if new.version < old.version or (begun and new.version == old.version):
        yield Difference(new.name, "", "version did not rise", str(old.version), str(new.version))
    elif new.version != old.version:
        yield Difference(new.name, "", "version", str(old.version), str(new.version))


def _column_differences(
    bank: str, column: Column, old: Column | str | None, old_names: Mapping[str, str]
) -> Iterator[Difference]:
    kind = column.document()["type"]
    if not isinstance(old, Column):
        default = "no default" if column.default is None else f"default {column.default}"
        yield Difference(bank, column.name, f"column added, {default}", "", kind, column.default is not None)
        return
    if old.name != column.name:
        yield Difference(bank, column.name, "column renamed", old.name, column.name)
    before, link = old.document()["type"], old_names.get(old.link, old.link)
    if (before, link) != (kind, column.link):
        was, now = f"{before} {old.link}".strip(), f"{kind} {column.link}".strip()
        yield Difference(bank, column.name, "type changed", was, now, False)
    if old.unit != column.unit:
        yield Difference(bank, column.name, "unit changed", old.unit, column.unit, False)
    if old.doc != column.doc:
        yield Difference(bank, column.name, "description changed", old.doc, column.doc)
