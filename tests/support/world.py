"""A small world that keeps every invariant: runs, finished work of a production, conditions, files on disk.

It writes what intake, planner, importer and calibrator write, step by step, so that tests can take it as
sound and then break one thing.
"""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa

from beamwright.catalog import runs
from beamwright.conditions import tags
from beamwright.conditions.payload import Payload
from beamwright.conditions.snapshot import Snapshot
from beamwright.core.canonical import content_hash, sha256_hex
from beamwright.core.runs import EVENT_MAX, Interval
from beamwright.db import history, schema
from beamwright.db.engine import Database, insert_id
from beamwright.durable import Digest

RELEASE = "sha256:" + "1" * 64
NOW = 1_000.0


def digest(data: bytes) -> Digest:
    return Digest(len(data), hashlib.sha256(data).hexdigest(), f"{zlib.adler32(data):08x}")


def columns(interval: Interval) -> dict[str, Any]:
    ends = zip(("run", "section", "event"), interval.first, interval.last, strict=True)
    return {"series": interval.series} | {
        k: v for n, a, b in ends for k, v in ((f"first_{n}", a), (f"last_{n}", b))
    }


@dataclass
class World:
    """Two runs of series A with 10 records each, a process step in two units, a merge; all closed."""

    db: Database
    root: Path
    kind: str = "rntuple"
    ids: dict[str, int] = field(default_factory=dict)

    def build(self) -> World:
        with self.db.begin() as conn:
            for run in (1, 2):
                self.deliver(conn, run)
            self.conditions(conn)
            self.production(conn)
            parts = [self.process(conn, run) for run in (1, 2)]
            self.merge(conn, parts)
            for step in ("reco", "merged"):
                self.close_task(conn, self.ids[step])
            tags.freeze(conn, "g", NOW)
        return self

    # --- what is delivered

    def deliver(self, conn: sa.Connection, run: int) -> None:
        data = f"raw data of run {run}".encode()
        path = self.write(self.root / "raw" / f"run{run}.raw", data)
        document = {
            "series": "A",
            "run": run,
            "tier": "raw",
            "sequence": 1,
            "reader": "toy",
            "first_section": 0,
            "last_section": 9,
            "records": {"event": 10},
            "is_mc": False,
            "end_marker": True,
            "files": [{"role": "events", "path": str(path), "size": len(data), "sha256": sha256_hex(data)}],
        }
        index = f"index of run {run}".encode()
        name = f"{sha256_hex(index)}.bwb"
        self.write(self.root / "indexes" / name, index)
        found = {str(path): digest(data)}
        chunk = runs.deliver(conn, document, found, NOW, records={"event": 10}, index_file=name)
        self.ids[f"chunk{run}"] = chunk
        link = schema.chunk_file
        self.ids[f"raw{run}"] = conn.execute(
            sa.select(link.c.file_id).where(link.c.chunk_id == chunk)
        ).scalar_one()

    def conditions(self, conn: sa.Connection) -> None:
        tags.create_global_tag(conn, "g", NOW)
        tags.create_tag(conn, "g/Scale", "arrays", NOW)
        for run in (1, 2):
            payload = tags.put_payload(conn, Payload.arrays({"scale": np.array([float(run)])}), NOW)
            version = tags.append(
                conn, "g/Scale", [(Interval.runs("A", run, run), payload, "fitted", "")], NOW
            )
            tags.sweep(conn, "g", {"g/Scale": version}, NOW)

    # --- what is done

    def production(self, conn: sa.Connection) -> None:
        self.ids["production"] = insert_id(
            conn,
            schema.production,
            name="p",
            experiment="toy",
            release=RELEASE,
            spec={},
            spec_hash="s",
            created=NOW,
            finished=None,
        )
        for step, kind in (("reco", "process"), ("merged", "merge")):
            task = insert_id(
                conn,
                schema.task,
                production_id=self.ids["production"],
                step=step,
                kind=kind,
                state="draft",
                config_version=1,
                config={},
                config_hash="c",
                uniform=False,
                created=NOW,
            )
            history.record(conn, "task", task, "draft", actor="planner", at=NOW)
            history.move(conn, schema.task, task, "draft", "active", actor="planner", at=NOW)
            self.ids[step] = task

    def process(self, conn: sa.Connection, run: int) -> int:
        interval = Interval("A", (run, 0, 0), (run, 9, EVENT_MAX))
        data = tags.export(conn, "g", [interval], ["Scale"])
        name = f"{sha256_hex(data)}.bwc"
        self.write(self.root / "snapshots" / name, data)
        definition = {
            "step": "reco",
            "reads": ["Scale"],
            "global_tag": "g",
            "snapshot": {"file": name, "sha256": sha256_hex(data)},
            "streams": {"dst": {"tier": "dst", "name": f"reco/dst.{run}", "file": f"dst.{run}.root"}},
        }
        resolved = Snapshot.from_bytes(data).resolved_hash(["Scale"], interval)
        unit = self.unit(conn, "reco", "process", interval, "event", "", definition, resolved)
        insert_id(
            conn,
            schema.unit_input,
            unit_id=unit,
            chunk_id=self.ids[f"chunk{run}"],
            collection_id=None,
            position=0,
        )
        counts = {"read": 10, "written": 7, "filtered": 2, "prescaled": 0, "quarantined": 1}
        collection = self.finish(conn, unit, "dst", [self.ids[f"raw{run}"]], counts)
        self.quarantine(conn, unit, run)
        self.ids |= {f"unit{run}": unit, f"collection{run}": collection}
        return collection

    def merge(self, conn: sa.Connection, parts: list[int]) -> None:
        interval = Interval("A", (1, 0, 0), (2, 9, EVENT_MAX))
        definition = {
            "step": "merged",
            "reads": [],
            "global_tag": "g",
            "snapshot": None,
            "streams": {"dst": {"tier": "dst", "name": "merged/dst", "file": "dst.root"}},
        }
        unit = self.unit(conn, "merged", "merge", interval, "", "dst", definition, "")
        for position, part in enumerate(parts):
            insert_id(
                conn, schema.unit_input, unit_id=unit, chunk_id=None, collection_id=part, position=position
            )
        link = schema.collection_file
        parents = list(
            conn.execute(sa.select(link.c.file_id).where(link.c.collection_id.in_(parts))).scalars()
        )
        counts = {"read": 14, "written": 14, "filtered": 0, "prescaled": 0, "quarantined": 0}
        self.ids["collection"] = self.finish(conn, unit, "dst", parents, counts)
        self.ids["unit"] = unit

    def unit(
        self,
        conn: sa.Connection,
        step: str,
        kind: str,
        interval: Interval,
        record: str,
        stream: str,
        definition: dict[str, Any],
        resolved: str,
    ) -> int:
        key = content_hash([step, interval.document(), stream])
        unit = insert_id(
            conn,
            schema.unit,
            key=key,
            task_id=self.ids[step],
            kind=kind,
            record=record,
            config_version=1,
            config_hash="c",
            resolved_hash=resolved,
            stream=stream,
            definition=definition,
            priority=0,
            created=NOW,
            **columns(interval),
        )
        job = insert_id(
            conn,
            schema.job,
            unit_id=unit,
            state="prepared",
            priority=0,
            failures=0,
            not_before=0.0,
            reason="",
            created=NOW,
        )
        history.record(conn, "job", job, "prepared", actor="planner", at=NOW)
        nonce = content_hash([key, "nonce"])[:32]
        attempt = insert_id(
            conn,
            schema.attempt,
            job_id=job,
            number=1,
            nonce=nonce,
            state="leased",
            farm="near",
            directory="jobs",
            leased=NOW,
            deadline=NOW + 60,
            release=RELEASE,
        )
        history.record(conn, "attempt", attempt, "leased", actor="submitter", at=NOW)
        self.ids |= {f"job{unit}": job, f"attempt{unit}": attempt}
        return unit

    def finish(
        self, conn: sa.Connection, unit: int, stream: str, parents: list[int], counts: dict[str, int]
    ) -> int:
        """Report, register and accept; return the collection."""
        row = conn.execute(sa.select(schema.unit).where(schema.unit.c.id == unit)).one()
        job, attempt = self.ids[f"job{unit}"], self.ids[f"attempt{unit}"]
        nonce = conn.execute(
            sa.select(schema.attempt.c.nonce).where(schema.attempt.c.id == attempt)
        ).scalar_one()
        store = self.root / "farms" / "near" / "store" / row.key[:12] / nonce
        declared = row.definition["streams"][stream]
        data = f"events of {declared['name']}".encode()
        path = self.write(store / declared["file"], data)
        report = f"report of {nonce}".encode()
        self.write(store / "report.json", report)
        file = self.register(conn, row, attempt, declared, path, digest(data), parents)
        collection = self.collection(conn, row, stream, declared, counts["written"], file)
        insert_id(
            conn,
            schema.output,
            unit_id=unit,
            stream=stream,
            attempt_id=attempt,
            file_id=file,
            collection_id=collection,
            events=counts["written"],
        )
        insert_id(
            conn,
            schema.ledger,
            unit_id=unit,
            attempt_id=attempt,
            record="event",
            stream=stream,
            created=0,
            **counts,
            **{name: getattr(row, name) for name in columns(Interval("A", (0, 0, 0), (0, 0, 0)))},
        )
        for source, target in (("leased", "submitted"), ("submitted", "running"), ("running", "reported")):
            history.move(conn, schema.attempt, attempt, source, target, actor="tracker", at=NOW)
        history.move(
            conn,
            schema.attempt,
            attempt,
            "reported",
            "accepted",
            actor="importer",
            at=NOW,
            report_sha256=sha256_hex(report),
        )
        for source, target in (("prepared", "submitted"), ("submitted", "running"), ("running", "ok")):
            history.move(conn, schema.job, job, source, target, actor="importer", at=NOW)
        return collection

    def register(
        self,
        conn: sa.Connection,
        unit: Any,
        attempt: int,
        declared: dict[str, Any],
        path: Path,
        found: Digest,
        parents: list[int],
    ) -> int:
        lineage = {
            "release": RELEASE,
            "config_hash": "c",
            "global_tag": "g",
            "resolved_hash": unit.resolved_hash,
        }
        file = insert_id(
            conn,
            schema.file,
            scope="p",
            name=declared["name"],
            kind=self.kind,
            size=found.size,
            sha256=found.sha256,
            adler32=found.adler32,
            uuid=None,
            tier="dst",
            attempt_id=attempt,
            lineage=lineage,
            created=NOW,
        )
        history.record(conn, "file", file, "registered", actor="importer", at=NOW)
        conn.execute(sa.insert(schema.file_parent), [{"file_id": file, "parent_id": p} for p in parents])
        status = path.stat()
        replica = insert_id(
            conn,
            schema.replica,
            file_id=file,
            endpoint="near",
            path=str(path),
            state="planned",
            inode=status.st_ino,
            mtime_ns=status.st_mtime_ns,
        )
        history.record(conn, "replica", replica, "planned", actor="importer", at=NOW)
        for source, target in (("planned", "copying"), ("copying", "present")):
            history.move(conn, schema.replica, replica, source, target, actor="importer", at=NOW)
        history.move(
            conn,
            schema.replica,
            replica,
            "present",
            "verified",
            actor="importer",
            at=NOW,
            verified_by="importer",
            verified_at=NOW,
        )
        return file

    def collection(
        self, conn: sa.Connection, unit: Any, stream: str, declared: dict[str, Any], events: int, file: int
    ) -> int:
        collection = insert_id(
            conn,
            schema.collection,
            scope="p",
            name=declared["name"],
            tier="dst",
            stream=stream,
            state="building",
            events=events,
            unit_id=unit.id,
            release=RELEASE,
            config_hash="c",
            global_tag="g",
            resolved_hash=unit.resolved_hash,
            is_mc=False,
            is_resampled=False,
            created=NOW,
            **{name: getattr(unit, name) for name in columns(Interval("A", (0, 0, 0), (0, 0, 0)))},
        )
        history.record(conn, "collection", collection, "building", actor="importer", at=NOW)
        history.move(conn, schema.collection, collection, "building", "valid", actor="importer", at=NOW)
        conn.execute(
            sa.insert(schema.collection_file).values(collection_id=collection, file_id=file, position=0)
        )
        return collection

    def quarantine(self, conn: sa.Connection, unit: int, run: int) -> None:
        insert_id(
            conn,
            schema.quarantine,
            unit_id=unit,
            attempt_id=self.ids[f"attempt{unit}"],
            record="event",
            series="A",
            run=run,
            section=3,
            event=4,
            module="Fit",
            error="ValueError",
            traceback="",
        )

    def close_task(self, conn: sa.Connection, task: int) -> None:
        for source, target in (("active", "draining"), ("draining", "closed")):
            history.move(conn, schema.task, task, source, target, actor="planner", at=NOW)

    def write(self, path: Path, data: bytes) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path
