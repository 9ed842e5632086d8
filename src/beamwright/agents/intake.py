"""The intake agent: polls the inbox for delivered raw data, checks it, registers it, and says why where it
refuses.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from beamwright import durable
from beamwright.catalog import runs
from beamwright.core import bundle
from beamwright.core.canonical import canonical_json, sha256_hex
from beamwright.core.errors import BeamwrightError, ChecksumError, FormatError, StorageError, UnknownNameError
from beamwright.core.runs import Interval
from beamwright.db import history
from beamwright.production.experiment import DeliveredFile, Delivery, Experiment
from beamwright.production.workspace import Workspace

ACTOR = "intake"


@dataclass
class Intake:
    """Takes deliveries (``*.json`` in the inbox) in name order; a refused one moves to ``rejected`` with
    its reason beside it.
    """

    workspace: Workspace
    experiment: Experiment
    name: str = ACTOR
    _hashed: dict[tuple[str, int, int], durable.Digest] = field(default_factory=dict)

    def turn(self) -> int:
        """Take what lies in the inbox; return how many deliveries were handled."""
        waiting = sorted((self.workspace.root / "inbox").glob("*.json"))
        for path in waiting:
            self._take(path)
        return len(waiting)

    def _take(self, path: Path) -> None:
        try:
            delivery = Delivery.from_document(_read(path))
            self._register(delivery)
        except StorageError:
            raise
        except BeamwrightError as error:
            if error.data.get("busy"):  # that says nothing of the delivery: it waits in the inbox
                raise
            self._reject(path, error)
        else:
            os.replace(path, path.parent / "done" / path.name)

    def _register(self, delivery: Delivery) -> None:
        digests = {file.path: self._check(file) for file in delivery.files}
        records, index_file = self._index(delivery)
        given = (delivery.document(), digests, self.workspace.clock.now())
        self.workspace.db.transact(
            lambda conn: runs.deliver(conn, *given, records=records, index_file=index_file)
        )

    def _check(self, file: DeliveredFile) -> durable.Digest:
        """Hash a delivered file and compare with what its sender says."""
        try:
            status = os.stat(file.path)
            key = (file.path, status.st_size, status.st_mtime_ns)
            found = self._hashed.get(key) or durable.hash_file(Path(file.path))
        except FileNotFoundError as error:
            raise FormatError(
                f"delivered file {file.path} is not there", hint="deliver it again with its right path"
            ) from error
        self._hashed[key] = found
        if found.size != file.size:
            raise FormatError(
                f"delivered file {file.path} has {found.size} bytes, not {file.size}",
                hint="it is truncated or another file: send it again",
            )
        if found.sha256 != file.sha256:
            message = (
                f"delivered file {file.path} has sha256 {found.sha256[:12]}, registered is {file.sha256[:12]}"
            )
            raise ChecksumError(message, hint="the file changed on its way: send it again")
        return found

    def _index(self, delivery: Delivery) -> tuple[dict[str, int], str]:
        """Make the chunk's key index and compare its counts with those announced."""
        if delivery.reader not in self.experiment.readers:
            raise UnknownNameError("reader", delivery.reader, self.experiment.readers)
        interval = Interval.sections(
            delivery.series, delivery.run, delivery.first_section, delivery.last_section
        )
        reader = self.experiment.open_reader(
            delivery.reader, [(f.role, Path(f.path)) for f in delivery.files], delivery.series, delivery.run
        )
        arrays, counts = {}, {}
        for record in delivery.records:
            index = reader.index(record).within(interval)
            arrays[f"{record}/section"], arrays[f"{record}/event"] = (
                np.asarray(index.section),
                np.asarray(index.event),
            )
            counts[record] = len(index.section)
        _compare(delivery, counts)
        data = bundle.pack(arrays, counts)
        name = f"{sha256_hex(data)}.bwb"
        durable.put_once(self.workspace.root / "indexes" / name, data)
        return counts, name

    def _reject(self, path: Path, error: BeamwrightError) -> None:
        with self.workspace.db.begin() as conn:
            now = self.workspace.clock.now()
            history.record(
                conn,
                "delivery",
                path.name,
                "rejected",
                actor=ACTOR,
                reason=str(error),
                at=now,
                data=error.document(),
            )
        durable.replace(
            path.parent / "rejected" / f"{path.stem}.reason.json", canonical_json(error.document())
        )
        os.replace(path, path.parent / "rejected" / path.name)


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise FormatError(
            f"delivery {path.name} is not valid JSON: {error}", hint="write it again"
        ) from error


def _compare(delivery: Delivery, counts: dict[str, int]) -> None:
    for record, expected in delivery.records.items():
        if counts[record] != expected:
            name = f"{delivery.series}:{delivery.run}, chunk {delivery.sequence}"
            message = f"{name}: {counts[record]} {record} records found, {expected} announced"
            raise FormatError(message, hint="the file is not complete, or the announcement is wrong")
