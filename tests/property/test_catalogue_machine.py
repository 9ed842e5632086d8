"""The catalogue against a model in memory: register, say, ask, supersede, withdraw, freeze, look back."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from beamwright.catalog import collections, datasets, metadata
from beamwright.catalog.asking import Question, ask
from beamwright.catalog.registering import Outcome, register
from beamwright.catalog.writers import Source
from beamwright.core.canonical import sha256_hex
from beamwright.core.did import Did
from beamwright.core.errors import ConflictError, StateError
from beamwright.db.engine import Database
from support.databases import Server

KEYS = {
    "energy": {"type": "float", "indexed": True},
    "site": {"type": "text"},
    "run": {"type": "int", "indexed": True},
}
KIND = {"name": "dq", "subject": "file", "key": KEYS}
NAME = Did("ana", "set")
NUMBERS, RUNS = st.integers(0, 9), st.integers(1, 4)
SAID = st.fixed_dictionaries(
    {},
    optional={"energy": st.sampled_from([0.5, 1.0, 2.5]), "site": st.sampled_from(["a", "b'"]), "run": RUNS},
)


@dataclass
class Kept:
    """A collection of the model: what it is, and its states with their times."""

    run: int
    files: tuple[str, ...]
    states: list[tuple[float, str]] = field(default_factory=list)

    def state(self, at: float) -> str | None:
        return next((state for moment, state in reversed(self.states) if moment <= at), None)


class Catalogue(RuleBasedStateMachine):
    """Every rule does the same to the database and to the model; every answer must be the same."""

    db: ClassVar[Database]

    @initialize()
    def begin(self) -> None:
        self.now = 1.0
        self.files: dict[str, tuple[int, float]] = {}
        self.said: dict[str, list[tuple[float, dict[str, Any]]]] = {}
        self.kept: dict[str, Kept] = {}
        self.frozen: dict[int, tuple[str, list[str]]] = {}
        with self.db.begin() as conn:
            metadata.declare(conn, KIND, self.now)

    def tick(self) -> float:
        self.now += 1.0
        return self.now

    def put(self, subject: str, *records: dict[str, Any], reason: str = "") -> Outcome:
        return register(self.db, subject, enumerate(records, 1), Source("list", self.tick(), "ann", reason))

    # --- files and what is said of them

    @rule(numbers=st.lists(NUMBERS, min_size=1, max_size=4), size=st.sampled_from([5, 5, 5, 6]), said=SAID)
    def register_files(self, numbers: list[int], size: int, said: dict[str, Any]) -> None:
        records = []
        for n in numbers:
            digest = sha256_hex(f"{n} {size}".encode())
            record: dict[str, Any] = {
                "name": f"mc:f{n}",
                "size": size,
                "sha256": digest,
                "adler32": digest[:8],
            }
            records.append(record | {"tier": "dst"} | ({"metadata": {"dq": said}} if said else {}))
        names = {f"f{n}" for n in numbers}
        clash = any(self.files[name][0] != size for name in names & set(self.files))
        other = said and any(self.saying(name) not in (None, said) for name in names & set(self.files))
        if clash or other:
            with pytest.raises(ConflictError):
                self.put("file", *records)
            return
        new = names - set(self.files)
        assert self.put("file", *records) == Outcome(len(new), len(numbers) - len(new))
        for name in names:
            self.files.setdefault(name, (size, self.now))
            if said and self.saying(name) is None:
                self.said.setdefault(name, []).append((self.now, said))

    def saying(self, name: str, at: float | None = None) -> dict[str, Any] | None:
        moment = self.now if at is None else at
        return next((said for since, said in reversed(self.said.get(name, [])) if since <= moment), None)

    @precondition(lambda self: self.files)
    @rule(data=st.data(), said=SAID)
    def say(self, data: st.DataObject, said: dict[str, Any]) -> None:
        name = data.draw(st.sampled_from(sorted(self.files)))
        with self.db.begin() as conn:
            kind = metadata.find_kind(conn, "dq")
            row = next(ask(conn, Question("file", f"name == '{name}'")))
            changed = metadata.attach(conn, kind, {row["id"]: said}, self.tick())
        assert changed == (self.saying(name) != said)
        if changed:
            self.said.setdefault(name, []).append((self.now, said))

    @rule(
        energy=st.sampled_from([0.5, 1.0, 2.0]),
        site=st.sampled_from(["a", "b*", "?'"]),
        ago=st.integers(0, 9),
    )
    def ask_for_files(self, energy: float, site: str, ago: int) -> None:
        at = self.now - ago
        where = f'dq.energy >= {energy} and not dq.site ~ "{site}"'
        with self.db.read() as conn:
            found = [row["name"] for row in ask(conn, Question("file", where, at))]
        matching = {"a": ("a",), "b*": ("b'",), "?'": ("b'",)}[site]
        wanted = []
        for name, (_, since) in sorted(self.files.items()):
            said = self.saying(name, at) or {}
            if since <= at and said.get("energy", -1) >= energy and said.get("site") not in matching:
                wanted.append(name)
        assert found == wanted

    # --- collections and decisions

    @precondition(lambda self: self.files)
    @rule(data=st.data(), n=NUMBERS, run=RUNS, is_decided=st.booleans())
    def register_collection(self, data: st.DataObject, n: int, run: int, is_decided: bool) -> None:
        files = tuple(
            data.draw(st.lists(st.sampled_from(sorted(self.files)), min_size=1, max_size=2, unique=True))
        )
        record = {
            "name": f"mc:c{n}",
            "tier": "dst",
            "stream": "dst",
            "series": "B",
            "first": run,
            "last": run,
        }
        record |= {"events": 7, "files": [f"mc:{name}" for name in files], "release": "24.1"}
        newest = self.newest(f"c{n}")
        held = None if newest is None else self.kept[newest]
        reason = "better" if is_decided else ""
        if held is not None and (held.run, held.files) == (run, files):
            assert self.put("collection", record, reason=reason) == Outcome(equal=1)
        elif held is not None and (not is_decided or held.state(self.now) == "bad"):
            with pytest.raises(ConflictError):
                self.put("collection", record, reason=reason)
        else:
            assert self.put("collection", record, reason=reason) == Outcome(new=1)
            if held is not None and held.state(self.now) == "valid":
                held.states.append((self.now, "superseded"))
            name = f"c{n}" if newest is None else f"c{n}.e{self.edition(newest) + 1}"
            self.kept[name] = Kept(run, files, [(self.now, "valid")])

    def newest(self, name: str) -> str | None:
        found = [one for one in self.kept if one == name or one.startswith(f"{name}.e")]
        return max(found, key=self.edition, default=None)

    def edition(self, name: str) -> int:
        return int(name.partition(".e")[2] or 1)

    @precondition(lambda self: self.kept)
    @rule(data=st.data(), is_bad=st.booleans())
    def decide(self, data: st.DataObject, is_bad: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.kept)))
        did, now = Did("mc", name), self.tick()
        held = self.kept[name]
        with self.db.begin() as conn:
            if held.state(now) != "valid":
                with pytest.raises(StateError):
                    collections.withdraw(conn, did, "noise", now, "ann")
            elif is_bad:
                collections.withdraw(conn, did, "noise", now, "ann")
                held.states.append((now, "bad"))
            else:
                collections.supersede(conn, did, None, "old", now, "ann")
                held.states.append((now, "superseded"))

    def valid(self, at: float, run: int | None = None) -> list[str]:
        return sorted(
            name for name, held in self.kept.items() if held.state(at) == "valid" and run in (None, held.run)
        )

    @rule(run=RUNS, ago=st.integers(0, 12))
    def ask_for_collections(self, run: int, ago: int) -> None:
        at = self.now - ago
        with self.db.read() as conn:
            where = f"state == 'valid' and run == {run}"
            assert sorted(r["name"] for r in ask(conn, Question("collection", where, at))) == self.valid(
                at, run
            )
            found = datasets.find_collections(conn, {"where": f"run == {run}"}, at)
        assert sorted(c.did.name for c in found) == self.valid(at, run)

    # --- datasets

    @rule(ago=st.integers(0, 5))
    def freeze(self, ago: int) -> None:
        now = self.tick()
        at = now - ago
        wanted = self.valid(at)
        runs = [self.kept[name].run for name in wanted]
        with self.db.begin() as conn:
            dataset = datasets.create(conn, NAME, {"stream": "dst"}, now)
            if len(set(runs)) < len(runs):
                with pytest.raises(ConflictError):
                    datasets.freeze(conn, NAME, now, as_of=at)
                return
            content = datasets.freeze(conn, NAME, now, as_of=at)
        self.frozen[dataset.version] = (content, wanted)

    @invariant()
    def frozen_ones_never_change(self) -> None:
        if not getattr(self, "frozen", None):
            return
        with self.db.read() as conn:
            for version, (content, wanted) in self.frozen.items():
                found = datasets.cited(conn, f"{NAME}@{version}")
                assert sorted(c.did.name for c in datasets.collections(conn, found)) == wanted
                assert datasets.cited(conn, f"{NAME}#{content}").content_hash == content

    @precondition(lambda self: len(self.frozen) > 1)
    @rule(data=st.data())
    def compare(self, data: st.DataObject) -> None:
        one, other = (data.draw(st.sampled_from(sorted(self.frozen))) for _ in "ab")
        with self.db.read() as conn:
            sets = [datasets.collections(conn, datasets.cited(conn, f"{NAME}@{v}")) for v in (one, other)]
            found = collections.compare(conn, *sets)
        old, new = (set(self.frozen[version][1]) for version in (one, other))
        gone = {name.partition(":")[2] for name in found.removed} | {
            a.partition(":")[2] for a, _ in found.replaced
        }
        come = {name.partition(":")[2] for name in found.added} | {
            b.partition(":")[2] for _, b in found.replaced
        }
        assert gone == old - new and come <= new - old and found.kept == len(old & new)
        assert all(
            self.kept[a[3:]].run == self.kept[b[3:]].run or b[3:] in self.kept for a, b in found.replaced
        )


def run(fresh: Any, steps: int, examples: int) -> None:
    """Run the machine, each example on a database of its own."""

    class OnDatabase(Catalogue):
        def __init__(self) -> None:
            super().__init__()
            self.place = fresh()
            type(self).db = next(self.place)

        def teardown(self) -> None:
            next(self.place, None)

    limits = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(OnDatabase, settings=limits)


def on_sqlite(template: Path) -> Any:
    def fresh() -> Iterator[Database]:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "beamwright.db"
            shutil.copyfile(template, path)
            db = Database(path)
            yield db
            db.close()

    return fresh


def on_postgresql(server: Server) -> Any:
    def fresh() -> Iterator[Database]:
        url = server.take()
        db = Database(url)
        yield db
        db.close()
        server.give_back(url)

    return fresh


def test_the_catalogue_does_as_its_model_on_sqlite(sqlite_template: Path) -> None:
    run(on_sqlite(sqlite_template), steps=25, examples=5)


def test_the_catalogue_does_as_its_model_on_postgresql(postgresql_server: Server) -> None:
    run(on_postgresql(postgresql_server), steps=20, examples=2)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_catalogue_does_as_its_model_for_long(sqlite_template: Path, postgresql_server: Server) -> None:
    run(on_sqlite(sqlite_template), steps=50, examples=150)
    run(on_postgresql(postgresql_server), steps=50, examples=40)
