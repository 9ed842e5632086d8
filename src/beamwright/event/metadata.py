"""What a file of a stream says of itself: the record that travels inside it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

from beamwright.core.errors import FormatError
from beamwright.core.lineage import Lineage
from beamwright.core.runs import Position
from beamwright.event.banks import BankSet
from beamwright.event.rntuple import NTupleFile

FORMAT = 1


@dataclass(frozen=True)
class FileMetadata:
    """Lineage, bank declarations, runs, key range and number of the events of one file.

    ``built``: the records were created from others and name their parents. ``first`` and ``last`` are None in
    a file without events. In a pointer skim ``borrowed`` are the banks that its records have in other files,
    ``sources`` the UUIDs of these, and ``order`` names the banks of both kinds as a deep copy has them.
    """

    lineage: Lineage
    record: str
    built: bool
    banks: BankSet
    runs: tuple[int, ...]
    first: Position | None
    last: Position | None
    events: int
    borrowed: BankSet = field(default_factory=BankSet)
    sources: tuple[str, ...] = ()
    order: tuple[str, ...] = ()

    @property
    def points(self) -> bool:
        """Whether the records lead into other files."""
        return len(self.borrowed) > 0

    @property
    def declarations(self) -> BankSet:
        """The banks of a record, wherever they are held."""
        if not self.points:
            return self.banks
        held = {**self.banks, **self.borrowed}
        return BankSet((held[name] for name in self.order), closed=False)

    @property
    def series(self) -> str:
        return self.lineage.series

    @property
    def stream(self) -> str:
        return self.lineage.stream

    def document(self) -> dict[str, Any]:
        """Return a JSON-ready form."""
        return {
            "format": FORMAT,
            "lineage": self.lineage.document(),
            "series": self.series,
            "record": self.record,
            "built": self.built,
            "banks": banks_document(self.banks),
            "runs": list(self.runs),
            "first": list(self.first) if self.first else None,
            "last": list(self.last) if self.last else None,
            "events": self.events,
            **(self._pointer_document() if self.points else {}),
        }

    def _pointer_document(self) -> dict[str, Any]:
        return {
            "borrowed": banks_document(self.borrowed),
            "sources": list(self.sources),
            "order": list(self.order),
        }

    @classmethod
    def from_document(cls, document: dict[str, Any], where: str) -> FileMetadata:
        """Read the form that ``document()`` writes; ``where`` names the file in errors.

        Raises: FormatError.
        """
        try:
            if document["format"] != FORMAT:
                raise FormatError(
                    f"{where} has metadata of format {document['format']}", hint="use a newer version"
                )
            first, last = document["first"], document["last"]
            return cls(
                Lineage.from_document(document["lineage"]),
                str(document["record"]),
                bool(document["built"]),
                read_banks(document["banks"], where),
                tuple(document["runs"]),
                (first[0], first[1], first[2]) if first else None,
                (last[0], last[1], last[2]) if last else None,
                int(document["events"]),
                read_banks(document.get("borrowed", []), where),
                tuple(document.get("sources", ())),
                tuple(document.get("order", ())),
            )
        except (KeyError, TypeError, IndexError) as error:
            raise FormatError(
                f"{where} has no metadata of an event stream ({error!r})",
                hint="only files that beamwright wrote carry it",
            ) from error


def banks_document(banks: BankSet) -> list[dict[str, Any]]:
    """Return bank declarations as lists: the record sorts the names in objects, and order matters here."""
    found = []
    for name, document in banks.document().items():
        columns = [{"name": column, **declared} for column, declared in document["columns"].items()]
        found.append({"name": name, **document, "columns": columns})
    return found


def read_banks(documents: list[dict[str, Any]], where: str) -> BankSet:
    """Read the form that ``banks_document`` writes."""
    banks = {}
    for document in documents:
        declared = {key: value for key, value in document.items() if key != "name"}
        declared["columns"] = {
            column["name"]: {key: value for key, value in column.items() if key != "name"}
            for column in document["columns"]
        }
        banks[document["name"]] = declared
    return BankSet.from_document(banks, where)


def metadata_of(file: NTupleFile) -> FileMetadata:
    """Return the metadata of an open file.

    Raises: FormatError where it has none.
    """
    if not file.is_own:
        raise FormatError(
            f"{file.path} has no metadata of an event stream: {file.writer or 'another program'} wrote it",
            hint="join files with `beamwright merge`, which keeps the metadata, or read it as a file of "
            "others, with a ForeignReader",
        )
    return FileMetadata.from_document(file.metadata, str(file.path))


def read_metadata(path: str | os.PathLike[str]) -> FileMetadata:
    """Return the metadata of a file of an event stream.

    Raises: FormatError, ChecksumError.
    """
    with NTupleFile(path) as file:
        return metadata_of(file)
