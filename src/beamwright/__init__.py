"""Process, calibrate, account for and distribute the data of an experiment."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path

    from beamwright.event.banks import BankSet
    from beamwright.event.collection import CollectionReader

__version__ = "0.1.0"


def open(
    name: str, workspace: Path | str | None = None, banks: BankSet | Path | str | None = None
) -> CollectionReader:
    """Open a collection, ``scope:name``, of a workspace (default: the nearest one upwards), or a file.

    Given ``banks``, or a file that declares them, files of other versions are read as these declare.
    Raises: UnknownNameError, StorageError, FormatError, SchemaMismatchError.
    """
    from beamwright.production.access import open_collection

    return open_collection(name, workspace, banks)
