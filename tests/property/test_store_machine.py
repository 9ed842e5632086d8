"""Files of one stream, split, merged and skimmed in any sequence: no event is lost or changed."""

from __future__ import annotations

import shutil
import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from beamwright.core.runs import EventKey
from beamwright.event.lookup import find
from beamwright.event.pointer import PointerWriter, promote
from beamwright.event.sources import SourceFiles
from beamwright.event.splitting import split_file
from beamwright.event.store import CollectionReader, Split, merge_collections
from beamwright.event.validate import validate_file
from support.streams import LINEAGE
from support.wide import BANKS, plain, sample, write

EVENTS = 160
WHOLE = sample(EVENTS)
sizes = st.sampled_from([500, 4_000, 1 << 25])
limits = st.builds(lambda n: Split(events=n), st.integers(1, 90)) | st.builds(
    lambda n: Split(bytes=n), st.integers(300, 9_000)
)


class Store(RuleBasedStateMachine):
    """``files`` are the files in key order, each with the numbers of its events."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.files: list[tuple[Path, list[int]]] = []
        self.written = 0
        self.count = 0

    def new(self) -> Path:
        self.count += 1
        return self.folder / f"{self.count}.root"

    @initialize(cuts=st.lists(st.integers(1, EVENTS - 1), unique=True, max_size=6), size=sizes)
    def write_files(self, cuts: list[int], size: int) -> None:
        for first, last in pairwise([0, *sorted(cuts), EVENTS]):
            path = write(self.new(), WHOLE.cut(first, last), target=size).file
            self.files.append((path, list(range(first, last))))

    @rule(data=st.data(), limit=limits)
    def split(self, data: st.DataObject, limit: Split) -> None:
        at = data.draw(st.integers(0, len(self.files) - 1))
        path, events = self.files.pop(at)
        parts, done = [], 0
        for part in split_file(path, self.new(), limit):
            parts.append((part.file, events[done : done + part.events]))
            done += part.events
        assert done == len(events)
        self.files[at:at] = parts

    @precondition(lambda self: len(self.files) > 1)
    @rule(data=st.data(), size=sizes)
    def merge(self, data: st.DataObject, size: int) -> None:
        first = data.draw(st.integers(0, len(self.files) - 2))
        last = data.draw(st.integers(first + 2, len(self.files)))
        chosen = self.files[first:last]
        given = data.draw(st.permutations([path for path, _ in chosen]))
        made = merge_collections(given, self.new(), LINEAGE, target=size)
        self.files[first:last] = [(made.file, [event for _, events in chosen for event in events])]

    @rule(data=st.data(), borrow=st.sampled_from([("Head",), ("Row",), ("Head", "Row")]), size=sizes)
    def skim_and_promote(self, data: st.DataObject, borrow: tuple[str, ...], size: int) -> None:
        chosen = np.zeros(EVENTS, np.bool_)
        chosen[sorted(data.draw(st.sets(st.integers(0, EVENTS - 1), min_size=1, max_size=30)))] = True
        names, skim, deep = [path for path, _ in self.files], self.new(), self.new()
        with CollectionReader(names) as reader:
            with PointerWriter(skim, "dst", BANKS, LINEAGE, parents=reader, borrow=borrow) as writer:
                writer.write(WHOLE.take(chosen))
                writer.close()
        sources = SourceFiles.of(names)
        assert validate_file(skim, sources=sources)["problems"] == []
        promote(skim, deep, sources, target=size)
        assert deep.read_bytes() == write(self.new(), WHOLE.take(chosen), target=size).file.read_bytes()

    @rule(first=st.integers(0, EVENTS), last=st.integers(0, EVENTS))
    def read_a_slice(self, first: int, last: int) -> None:
        last = max(first, last)
        with CollectionReader([path for path, _ in self.files]) as reader:
            found = reader.read("event", np.arange(first, last))
        assert plain(found) == plain(WHOLE.cut(first, last))

    @rule(event=st.integers(0, EVENTS + 3))
    def look_one_up(self, event: int) -> None:
        with CollectionReader([path for path, _ in self.files]) as reader:
            place = find(reader, EventKey("44", 3, 0, event))
        where = [(n, events.index(event)) for n, (_, events) in enumerate(self.files) if event in events]
        assert place == (where[0] if where else None)

    @invariant()
    def every_event_is_there_once(self) -> None:
        assert [event for _, events in self.files for event in events] == list(
            range(EVENTS if self.files else 0)
        )

    def teardown(self) -> None:
        for path, events in self.files:
            verdict = validate_file(path)
            assert (verdict["problems"], verdict["events"]) == ([], len(events))
        if self.files:
            self.read_a_slice(0, EVENTS)
        shutil.rmtree(self.folder)


TestStore = Store.TestCase
TestStore.settings = settings(max_examples=6, stateful_step_count=8)
