"""A finished small production, written straight into the tables.

Two runs of series A (the second in two chunks) and a simulated one go through
pass1 (calibrate) → reco (process) → skim (process) → merged (merge). One record of run 2 is in quarantine.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from beamwright.core import canonical
from beamwright.core.runs import EVENT_MAX, Interval
from beamwright.db import schema

T0 = 1_700_000_000.0
CHUNKS = [("A", 1, 1, 0, 99, 200), ("A", 2, 1, 0, 49, 100), ("A", 2, 2, 50, 99, 110), ("S", 7, 1, 0, 9, 40)]
SPEC: dict[str, Any] = {
    "name": "sample",
    "experiment": "toy",
    "title": "A small production",
    "deliveries": "",
    "uniform": False,
    "constants": [],
    "dataset": [
        {
            "name": "data",
            "tier": "raw",
            "runs": {"A": [1, 2]},
            "global_tag": "open-A",
            "is_mc": False,
            "is_resampled": False,
        },
        {
            "name": "simulation",
            "tier": "raw",
            "runs": {"S": [7]},
            "global_tag": "sim",
            "is_mc": True,
            "is_resampled": False,
        },
    ],
    "step": [
        {"name": "pass1", "kind": "calibrate", "inputs": ["data"], "calibrations": ["scale"]},
        {"name": "reco", "kind": "process", "inputs": ["data", "simulation"], "path": "reco"},
        {"name": "skim", "kind": "process", "inputs": ["reco.dst"], "path": "skim"},
        {"name": "merged", "kind": "merge", "inputs": ["skim.good"]},
    ],
}


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def columns(interval: Interval) -> dict[str, Any]:
    names = ("run", "section", "event")
    ends = {f"first_{n}": v for n, v in zip(names, interval.first, strict=True)}
    return {
        "series": interval.series,
        **ends,
        **{f"last_{n}": v for n, v in zip(names, interval.last, strict=True)},
    }


@dataclass
class Sample:
    """Writes the rows; ``shift`` moves every time and changes every nonce, as a second workspace would."""

    conn: sa.Connection
    folder: Path = Path("farm")
    shift: float = 0.0
    job_state: str = "ok"
    ids: dict[str, int] = field(default_factory=dict)

    def add(self, table: sa.Table, **values: Any) -> int:
        # Columns that this story does not need stay empty.
        values = {c.name: "" for c in table.c if isinstance(c.type, sa.Text) and not c.nullable} | values
        found = self.conn.execute(sa.insert(table).values(**values)).inserted_primary_key
        assert found is not None
        return found[0]

    @property
    def now(self) -> float:
        return T0 + self.shift

    def build(self) -> Sample:
        self._production()
        self._raw()
        self._conditions()
        self._pass1()
        for number, chunk in enumerate(CHUNKS):
            reco = self._process(
                "reco", chunk, number, [("chunk", self.ids[f"chunk{number}"])], "dst", chunk[5], 2
            )
            self._process("skim", chunk, number + 10, [("collection", reco)], "good", chunk[5] // 2, 0)
        self._merge()
        self._verdicts()
        return self

    def _production(self) -> None:
        production = self.add(
            schema.production,
            name="sample",
            experiment="toy",
            release="sha256:" + digest("release"),
            spec=SPEC,
            spec_hash=canonical.content_hash(SPEC),
            created=self.now,
            finished=self.now + 60,
        )
        for step in SPEC["step"]:
            self.ids[step["name"]] = self.add(
                schema.task,
                production_id=production,
                step=step["name"],
                kind=step["kind"],
                state="closed",
                config_version=1,
                config={},
                config_hash=digest(step["name"]),
                uniform=False,
                created=self.now,
            )

    def _raw(self) -> None:
        for number, (series, run, sequence, first, last, events) in enumerate(CHUNKS):
            key = f"run{series}{run}"
            if key not in self.ids:
                self.ids[key] = self.add(
                    schema.run,
                    series=series,
                    number=run,
                    tier="raw",
                    state="closed",
                    version=1,
                    expected={"event": events},
                    end_marker=True,
                    is_mc=series == "S",
                    conditions={},
                    created=self.now,
                )
            chunk = self.ids[f"chunk{number}"] = self.add(
                schema.chunk,
                run_id=self.ids[key],
                sequence=sequence,
                first_section=first,
                last_section=last,
                records={"event": events},
                reader="toy",
                created=self.now,
            )
            name = f"{series}.{run}.{sequence}.raw"
            file = self.file("raw", name, "raw", 10_000 + number, None)
            self.ids[f"rawfile{number}"] = file
            self.add(schema.chunk_file, chunk_id=chunk, file_id=file, role="events")

    def file(
        self, scope: str, name: str, kind: str, size: int, attempt: int | None, parents: tuple[int, ...] = ()
    ) -> int:
        file = self.add(
            schema.file,
            scope=scope,
            name=name,
            kind=kind,
            size=size,
            sha256=digest(name),
            adler32="00000001",
            uuid=None if kind == "raw" else digest("u" + name)[:32],
            tier="raw",
            attempt_id=attempt,
            lineage={},
            created=self.now,
        )
        self.add(
            schema.replica,
            file_id=file,
            endpoint="near",
            path=str(self.folder / f"{name}-{self.shift}"),
            state="verified",
            verified_by="importer",
            verified_at=self.now,
            inode=file,
            mtime_ns=1,
        )
        for parent in parents:
            self.conn.execute(sa.insert(schema.file_parent).values(file_id=file, parent_id=parent))
        return file

    def _conditions(self) -> None:
        for name in ("c0", "c1", "c2"):
            self.conn.execute(
                sa.insert(schema.payload).values(
                    id=digest(name), kind="bytes", size=64, data=b"x" * 64, created=self.now
                )
            )
        tag = self.ids["tag"] = self.add(schema.tag, name="Scale", kind="arrays", version=3, created=self.now)
        for number, (payload, origin, chunk) in enumerate(
            [("c1", "fitted", 0), ("c2", "fitted", 1), ("c2", "carried", 2)]
        ):
            self.add(
                schema.iov,
                tag_id=tag,
                **columns(self.interval(CHUNKS[chunk])),
                payload_id=digest(payload),
                added=number + 1,
                removed=None,
                origin=origin,
                reason="" if origin == "fitted" else "too few hits",
                generation=0,
                created=self.now,
            )
        gtag = self.add(
            schema.global_tag,
            name="open-A",
            state="frozen",
            version=3,
            merkle=digest("m"),
            created=self.now,
            frozen=self.now,
        )
        self.conn.execute(
            sa.insert(schema.global_tag_member).values(
                global_tag_id=gtag, version=3, tag_id=tag, tag_version=3, created=self.now
            )
        )

    def interval(self, chunk: tuple[Any, ...]) -> Interval:
        return Interval(chunk[0], (chunk[1], chunk[3], 0), (chunk[1], chunk[4], EVENT_MAX))

    def _pass1(self) -> None:
        chain = self.add(schema.chain, task_id=self.ids["pass1"], series="A", generation=0, accumulated=[])
        start = "c0"
        for number, state in ((0, "accepted"), (1, "accepted"), (2, "carried")):
            unit, attempt = self.unit(
                "pass1", "collect", CHUNKS[number], number, "accumulator", CHUNKS[number][5]
            )
            file = self.file(
                "sample", f"acc{number}.bwb", "bundle", 100, attempt, (self.ids[f"rawfile{number}"],)
            )
            self.add(
                schema.output, unit_id=unit, stream="accumulator", attempt_id=attempt, file_id=file, events=0
            )
            self.add(schema.unit_input, unit_id=unit, chunk_id=self.ids[f"chunk{number}"], position=0)
            result = "c2" if number else "c1"
            self.add(
                schema.chain_link,
                chain_id=chain,
                chunk_id=self.ids[f"chunk{number}"],
                **columns(self.interval(CHUNKS[number])),
                generation=0,
                state=state,
                collect_unit_id=unit,
                start={"Scale": digest(start)},
                result={"Scale": digest(result)},
                figures={"width_ns": 3.5 - 0.2 * number},
                reason="too few hits" if state == "carried" else "",
                created=self.now,
            )
            start = result

    def unit(
        self, step: str, kind: str, chunk: tuple[Any, ...], number: int, stream: str, records: int
    ) -> tuple[int, int]:
        key = digest(f"unit {step} {number}")
        unit = self.add(
            schema.unit,
            key=key,
            task_id=self.ids[step],
            kind=kind,
            **columns(self.interval(chunk)),
            record="event",
            config_version=1,
            config_hash=digest(step),
            resolved_hash=digest(f"resolved {number}"),
            stream=stream,
            definition={},
            priority=0,
            created=self.now,
        )
        job = self.add(
            schema.job,
            unit_id=unit,
            state=self.job_state,
            priority=0,
            failures=0,
            not_before=0.0,
            reason="",
            created=self.now,
        )
        self.ids[f"job {step} {number}"] = job
        started = self.now + 3 * number
        attempt = self.add(
            schema.attempt,
            job_id=job,
            number=1,
            nonce=digest(f"{key}{self.shift}")[:32],
            state="accepted",
            farm="near" if number % 2 else "far",
            directory=str(self.folder / "jobs" / key[:12]),
            batch_id="1",
            leased=started,
            deadline=started + 100,
            started=started + 0.1,
            ended=started + 2,
            host="h",
            cpu_s=1.5,
            wall_s=1.9,
            max_rss_kb=90_000,
            exit_code=0,
            release="r",
            report_sha256=digest("report"),
            timings={"start": 0.1, "process": 1.5},
        )
        for target, source in (
            ("leased", None),
            ("submitted", "leased"),
            ("running", "submitted"),
            ("accepted", "reported"),
        ):
            self.history("attempt", attempt, source, target, started)
        self.history("job", job, None, "prepared", started)
        self.history("job", job, "running", self.job_state, started + 2)
        return unit, attempt

    def history(self, kind: str, object: int, source: str | None, target: str, at: float) -> None:
        self.add(
            schema.history,
            at=at,
            kind=kind,
            object=str(object),
            source=source,
            target=target,
            actor="test",
            reason="",
            data={},
        )

    def _process(
        self,
        step: str,
        chunk: tuple[Any, ...],
        number: int,
        inputs: list[tuple[str, int]],
        stream: str,
        written: int,
        bad: int,
    ) -> int:
        unit, attempt = self.unit(step, "process", chunk, number, "", chunk[5])
        for position, (kind, identity) in enumerate(inputs):
            self.add(schema.unit_input, unit_id=unit, position=position, **{f"{kind}_id": identity})
        quarantined = bad if chunk[1] == 2 and chunk[2] == 1 else 0
        written -= quarantined
        parent = self.ids.get(f"rawfile{number}") or self.ids[f"file reco {number - 10}"]
        file = self.file(
            "sample", f"{step}/{stream}.{number}.root", "rntuple", 5_000 + number, attempt, (parent,)
        )
        self.ids[f"file {step} {number}"] = file
        collection = self.collection(f"{step}/{stream}.{number}", stream, unit, chunk, written, file)
        self.add(
            schema.output,
            unit_id=unit,
            stream=stream,
            attempt_id=attempt,
            file_id=file,
            collection_id=collection,
            events=written,
        )
        self.ledger(unit, attempt, chunk, stream, chunk[5], written, quarantined)
        return collection

    def collection(
        self, name: str, stream: str, unit: int, chunk: tuple[Any, ...], events: int, file: int
    ) -> int:
        collection = self.ids[f"collection {name}"] = self.add(
            schema.collection,
            scope="sample",
            name=name,
            tier="dst",
            stream=stream,
            state="valid",
            events=events,
            unit_id=unit,
            **columns(self.interval(chunk)),
            release="r",
            config_hash=digest("c"),
            global_tag="open-A",
            resolved_hash=digest(name),
            is_mc=chunk[0] == "S",
            is_resampled=False,
            created=self.now,
        )
        self.conn.execute(
            sa.insert(schema.collection_file).values(collection_id=collection, file_id=file, position=0)
        )
        return collection

    def ledger(
        self,
        unit: int,
        attempt: int,
        chunk: tuple[Any, ...],
        stream: str,
        read: int,
        written: int,
        quarantined: int,
    ) -> None:
        self.add(
            schema.ledger,
            unit_id=unit,
            attempt_id=attempt,
            record="event",
            stream=stream,
            **columns(self.interval(chunk)),
            read=read,
            created=0,
            written=written,
            filtered=read - written - quarantined,
            prescaled=0,
            quarantined=quarantined,
        )
        for number in range(quarantined):
            self.add(
                schema.quarantine,
                unit_id=unit,
                attempt_id=attempt,
                record="event",
                series=chunk[0],
                run=chunk[1],
                section=3,
                event=number,
                module="Fit",
                error="ValueError: no hits",
                traceback="…",
            )

    def _merge(self) -> None:
        chunk = ("A", 1, 1, 0, 99, 205)
        unit, attempt = self.unit("merged", "merge", chunk, 20, "good", 205)
        for position, number in enumerate((10, 11, 12)):
            collection = self.ids[f"collection skim/good.{number}"]
            self.add(schema.unit_input, unit_id=unit, collection_id=collection, position=position)
        parents = tuple(self.ids[f"file skim {number}"] for number in (10, 11, 12))
        file = self.file("sample", "merged/good.A.root", "rntuple", 14_000, attempt, parents)
        collection = self.collection("merged/good.A", "good", unit, chunk, 205, file)
        self.add(
            schema.output,
            unit_id=unit,
            stream="good",
            attempt_id=attempt,
            file_id=file,
            collection_id=collection,
            events=205,
        )
        self.ledger(unit, attempt, chunk, "good", 205, 205, 0)

    def _verdicts(self) -> None:
        for run, value in ((1, "good"), (2, "bad")):
            for version in (1, 2):
                self.add(
                    schema.verdict,
                    series="A",
                    run=run,
                    tier="raw",
                    subject="pass1",
                    version=version,
                    value=value if version == 2 else "unknown",
                    author="checks",
                    reason="width 3.3 of 2.3..3.7",
                    checks=[{"name": "width", "value": 3.3, "low": 2.3, "high": 3.7, "verdict": value}],
                    created=self.now,
                )
