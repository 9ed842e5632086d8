"""The catalogue against a model in memory: register, say, ask, supersede, withdraw, freeze, look back."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from beamwright.catalog import asking, collections, datasets, metadata, query, vocabulary, writers
from beamwright.catalog.asking import Question, ask
from beamwright.catalog.registering import Outcome, register
from beamwright.catalog.writers import Source
from beamwright.core import states
from beamwright.core.canonical import sha256_hex
from beamwright.core.did import Did
from beamwright.core.errors import ConflictError, StateError
from beamwright.db.engine import Database
from support.databases import Server, memory

KEYS = {
    "energy": {"type": "float", "indexed": True},
    "site": {"type": "text"},
    "run": {"type": "int", "indexed": True},
}
KIND = {"name": "dq", "subject": "file", "key": KEYS}
NAME = Did("ana", "set")
# Few names and runs: what happens to one of them twice is what matters.
NUMBERS, NAMES, RUNS = st.integers(0, 4), st.integers(0, 1), st.integers(1, 2)
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

    def __init__(self) -> None:
        super().__init__()
        self.now = 1.0
        self.files: dict[str, tuple[int, float]] = {}
        self.said: dict[str, list[tuple[float, dict[str, Any]]]] = {}
        self.kept: dict[str, Kept] = {}
        self.frozen: dict[int, tuple[str, list[str]]] = {}

    @initialize(runs=st.sampled_from([(), (1,), (1, 1), (1, 2)]))
    def begin(self, runs: tuple[int, ...]) -> None:
        """Begin with nothing, or with files and collections of some runs: else most examples have none."""
        with self.db.begin() as conn:
            metadata.declare(conn, KIND, self.now)
        for n, run in enumerate(runs):
            self.register_one(n, run)

    def tick(self) -> float:
        self.now += 1.0
        return self.now

    def put(self, subject: str, *records: dict[str, Any], reason: str = "") -> Outcome:
        return register(self.db, subject, enumerate(records, 1), Source("list", self.tick(), "ann", reason))

    # --- files and what is said of them

    @rule(numbers=st.lists(NUMBERS, min_size=1, max_size=4), size=st.sampled_from([5, 5, 6]), said=SAID)
    def register_files(self, numbers: list[int], size: int, said: dict[str, Any]) -> None:
        more = {"metadata": {"dq": said}} if said else {}
        records = [self.file(n, size) | more for n in numbers]
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
            there = [row["name"] for row in ask(conn, Question("file", "tier == 'dst'", at))]
            found = [row["name"] for row in ask(conn, Question("file", where, at))]
        matching = {"a": ("a",), "b*": ("b'",), "?'": ("b'",)}[site]
        wanted = []
        for name, (_, since) in sorted(self.files.items()):
            said = self.saying(name, at) or {}
            if since <= at and said.get("energy", -1) >= energy and said.get("site") not in matching:
                wanted.append(name)
        assert found == wanted
        assert there == sorted(name for name, (_, since) in self.files.items() if since <= at)

    @invariant()
    def only_what_was_said_last_holds(self) -> None:
        if self.said:
            with self.db.read() as conn:
                found = [row["name"] for row in ask(conn, Question("file", "dq.energy >= 1.0"))]
            assert found == sorted(n for n in self.said if (self.saying(n) or {}).get("energy", 0) >= 1)

    # --- collections and decisions

    def register_one(self, n: int, run: int) -> None:
        self.put("file", self.file(n, 5))
        self.files[f"f{n}"] = (5, self.now)
        self.put("collection", self.collection(n, run, (f"f{n}",)))
        self.kept[f"c{n}"] = Kept(run, (f"f{n}",), [(self.now, "valid")])

    def file(self, n: int, size: int) -> dict[str, Any]:
        digest = sha256_hex(f"{n} {size}".encode())
        sums = {"size": size, "sha256": digest, "adler32": digest[:8]}
        return {"name": f"mc:f{n}", "tier": "dst"} | sums

    def collection(self, n: int, run: int, files: tuple[str, ...]) -> dict[str, Any]:
        place = {"tier": "dst", "stream": "dst", "series": "B", "first": run, "last": run}
        made = {"events": 7, "files": [f"mc:{name}" for name in files], "release": "24.1"}
        return {"name": f"mc:c{n}"} | place | made

    @precondition(lambda self: self.files)
    @rule(data=st.data(), n=NAMES, run=RUNS, is_decided=st.sampled_from([True, True, False]))
    def register_collection(self, data: st.DataObject, n: int, run: int, is_decided: bool) -> None:
        files = tuple(
            data.draw(st.lists(st.sampled_from(sorted(self.files)), min_size=1, max_size=2, unique=True))
        )
        record = self.collection(n, run, files)
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
    @rule(which=st.integers(0, 5), is_bad=st.booleans())
    def decide(self, which: int, is_bad: bool) -> None:
        name = sorted(self.kept)[which % len(self.kept)]
        did, now = Did("mc", name), self.tick()
        held = self.kept[name]
        with self.db.begin() as conn:
            if held.state(now) == "valid":
                if is_bad:
                    collections.withdraw(conn, did, "noise", now, "ann")
                else:
                    collections.supersede(conn, did, None, "old", now, "ann")
                held.states.append((now, "bad" if is_bad else "superseded"))
            with pytest.raises(StateError):
                collections.withdraw(conn, did, "noise", now, "ann")

    def valid(self, at: float, run: int | None = None) -> list[str]:
        return sorted(
            name for name, held in self.kept.items() if held.state(at) == "valid" and run in (None, held.run)
        )

    def ask_what_was_valid(self, ago: int) -> None:
        at = self.now - ago
        with self.db.read() as conn:
            found = sorted(row["name"] for row in ask(conn, Question("collection", "state == 'valid'", at)))
        assert found == self.valid(at)

    @rule(run=RUNS, ago=st.integers(0, 12))
    def ask_for_collections(self, run: int, ago: int) -> None:
        self.ask_what_was_valid(ago)
        at = self.now - ago
        with self.db.read() as conn:
            where = f"state == 'valid' and run == {run}"
            assert sorted(r["name"] for r in ask(conn, Question("collection", where, at))) == self.valid(
                at, run
            )
            found = datasets.find_collections(conn, {"where": f"run == {run}"}, at)
        assert sorted(c.did.name for c in found) == self.valid(at, run)

    @invariant()
    def as_many_are_valid_as_should_be(self) -> None:
        if self.kept:
            self.ask_what_was_valid(0)

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
        if not self.frozen:
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


def run(fresh: Any, steps: int, examples: int, **more: Any) -> None:
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
        suppress_health_check=list(HealthCheck),
        **more,
    )
    run_state_machine_as_test(OnDatabase, settings=limits)


def on_sqlite(template: Path) -> Any:
    def fresh() -> Iterator[Database]:
        with tempfile.TemporaryDirectory(dir=memory()) as folder:
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


# --- what the machine must find


class Anything:
    """Equal to whatever it is compared with."""

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False


def _take_any_checksum_for_the_same(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(writers.FileWriter, "_identity", lambda *_: Anything())


def _forget_what_comes_later_of_a_known_file(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(writers.Writer, "_missing", lambda *_: [])


def _let_what_was_superseded_stay_valid(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(writers.CollectionWriter, "_supersede", lambda *_: None)


def _call_every_edition_the_second(patch: pytest.MonkeyPatch) -> None:
    name = writers.CollectionWriter._name
    patch.setattr(writers.CollectionWriter, "_name", lambda self, r: name(self, r).partition(".e")[0] + ".e2")


def _say_nothing_of_the_past(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(metadata, "live", lambda table, as_of: table.c.removed.is_(None))


def _keep_what_was_said_before(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(metadata, "_end", lambda *_: None)


def _see_files_before_they_came(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(asking, "there", lambda table, as_of: [])


def _know_states_as_they_are_now(patch: pytest.MonkeyPatch) -> None:
    state = vocabulary.state_then
    patch.setattr(vocabulary, "state_then", lambda table, as_of: state(table, None))


def _read_patterns_to_the_letter(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(query, "matches", lambda column, pattern: column == pattern)


def _decide_about_what_was_decided(patch: pytest.MonkeyPatch) -> None:
    table: Mapping[str, Any] = states.TABLES["collection"]
    patch.setitem(states.TABLES, "collection", dict(table) | {"superseded": {"bad", "superseded"}})


def _freeze_what_holds_now(patch: pytest.MonkeyPatch) -> None:
    held = datasets.collections
    patch.setattr(datasets, "collections", lambda conn, dataset, as_of=None: held(conn, dataset))


def _freeze_the_same_events_twice(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(datasets, "_check_single", lambda *_: None)


def _ask_again_what_was_frozen(patch: pytest.MonkeyPatch) -> None:
    def now(conn: Any, dataset: datasets.Dataset, as_of: float | None = None) -> list[datasets.Collection]:
        return datasets.find_collections(conn, dataset.query, as_of)

    patch.setattr(datasets, "collections", now)


FOUND_SOON = [
    _let_what_was_superseded_stay_valid,
    _call_every_edition_the_second,
    _see_files_before_they_came,
    _know_states_as_they_are_now,
    _decide_about_what_was_decided,
    _ask_again_what_was_frozen,
]
FOUND_LATER = [
    _take_any_checksum_for_the_same,
    _forget_what_comes_later_of_a_known_file,
    _say_nothing_of_the_past,
    _keep_what_was_said_before,
    _read_patterns_to_the_letter,
    _freeze_what_holds_now,
    _freeze_the_same_events_twice,
]


@pytest.mark.parametrize(
    "sabotage", [*FOUND_SOON, *(pytest.param(one, marks=pytest.mark.slow) for one in FOUND_LATER)]
)
def test_the_machine_finds_what_is_planted(
    sabotage: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch, sqlite_template: Path
) -> None:
    sabotage(monkeypatch)
    planned: dict[str, Any] = {"phases": [Phase.generate], "derandomize": True, "database": None}
    with pytest.raises(BaseException):  # noqa: B017 - an assertion, or what the damage leads to
        run(on_sqlite(sqlite_template), steps=30, examples=40 if sabotage in FOUND_SOON else 200, **planned)
