"""Batches against simple models: whatever the shapes, links, cuts and batch sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from beamwright.core.runs import EVENT_MAX, Interval
from beamwright.event.banks import Bank, BankSet
from beamwright.event.batch import Batch, Jagged, Table
from beamwright.event.keys import Index
from beamwright.event.plan import Piece, make_plan
from beamwright.event.transport import Packer, _pack_batch, _unpack_batch
from support import toy

BANKS = BankSet(
    [
        Bank.from_document("Hit", {"columns": {"id": {"type": "i8"}, "next": {"type": "link", "to": "Hit"}}}),
        Bank.from_document("Track", {"columns": {"hits": {"type": "link[]", "to": "Hit"}}}),
    ]
)

Model = list[dict[str, Any]]
"""One dictionary per record: ids of its hits, the id that each hit points to, the ids of each track."""


@st.composite
def models(draw: st.DrawFn) -> Model:
    records: Model = []
    number = 0
    for _ in range(draw(st.integers(0, 5))):
        ids = list(range(number, number + draw(st.integers(0, 4))))
        number += len(ids)
        targets = st.sampled_from([None, *ids])
        records.append(
            {
                "ids": ids,
                "next": [draw(targets) for _ in ids],
                "tracks": draw(st.lists(st.lists(targets, max_size=3), max_size=2)),
            }
        )
    return records


def local(record: dict[str, Any], target: int | None) -> int:
    return -1 if target is None else record["ids"].index(target)


def batch_of(model: Model) -> Batch:
    made = Batch("event", "A", 1, [0] * len(model), range(len(model)), banks=BANKS)
    made["Hit"] = Table.from_counts(
        "Hit",
        [len(r["ids"]) for r in model],
        {
            "id": np.array([i for r in model for i in r["ids"]], np.int64),
            "next": np.array([local(r, t) for r in model for t in r["next"]], np.int32),
        },
    )
    lists = [[local(r, t) for t in track] for r in model for track in r["tracks"]]
    made["Track"] = Table.from_counts(
        "Track", [len(r["tracks"]) for r in model], {"hits": Jagged.from_lists(lists, np.int32)}
    )
    return made


def model_of(batch: Batch) -> Model:
    """Read the model back out of a batch, following links by their rows."""
    hits, tracks = batch["Hit"], batch["Track"]
    following = hits.follow("next", hits)
    lists = Jagged(tracks.hits.offsets, tracks.follow("hits", hits))

    def name(row: int) -> int | None:
        return None if row < 0 else int(hits.id[row])

    found: Model = []
    for i in range(batch.n):
        rows = range(hits.offsets[i], hits.offsets[i + 1])
        found.append(
            {
                "ids": [int(hits.id[row]) for row in rows],
                "next": [name(int(following[row])) for row in rows],
                "tracks": [
                    [name(int(r)) for r in lists[t]] for t in range(tracks.offsets[i], tracks.offsets[i + 1])
                ],
            }
        )
    return found


@given(models(), st.data())
def test_filtering_rows_keeps_what_every_living_link_points_to(model: Model, data: st.DataObject) -> None:
    batch = batch_of(model)
    assert model_of(batch) == model
    rows = batch["Hit"].rows
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=rows, max_size=rows)), bool)
    kept = {i for r in model for i in r["ids"] if mask[i]}

    def alive(target: int | None) -> int | None:
        return target if target in kept else None

    batch["Hit"].filter(mask, batch)
    expected = [
        {
            "ids": [i for i in r["ids"] if i in kept],
            "next": [alive(t) for i, t in zip(r["ids"], r["next"], strict=True) if i in kept],
            "tracks": [[alive(t) for t in track] for track in r["tracks"]],
        }
        for r in model
    ]
    assert model_of(batch) == expected


@given(models(), st.data())
def test_taking_cutting_and_joining_records_are_list_operations(model: Model, data: st.DataObject) -> None:
    batch, n = batch_of(model), len(model)
    mask = data.draw(st.lists(st.booleans(), min_size=n, max_size=n))
    assert model_of(batch.take(np.array(mask, bool))) == [
        r for r, keep in zip(model, mask, strict=True) if keep
    ]
    middle = data.draw(st.integers(0, n))
    first, second = batch.cut(0, middle), batch.cut(middle, n)
    assert (model_of(first), model_of(second)) == (model[:middle], model[middle:])
    assert model_of(Batch.concatenate([first, second])) == model


@given(models())
def test_batches_survive_the_way_between_processes(model: Model) -> None:
    pack = Packer()
    document = _pack_batch(batch_of(model), pack)
    assert model_of(_unpack_batch(document, pack.arrays, BANKS)) == model


keys = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 3), st.one_of(st.integers(0, 4), st.just(EVENT_MAX))),
    unique=True,
    max_size=30,
)
positions = st.tuples(st.integers(0, 4), st.integers(0, 4), st.one_of(st.integers(0, 5), st.just(EVENT_MAX)))


@given(keys, positions, positions)
def test_the_span_of_an_interval_holds_exactly_the_keys_inside(found: Any, one: Any, other: Any) -> None:
    columns = np.array(found, np.uint64).reshape(-1, 3)
    index = Index.build(*columns.T, name="f")
    interval = Interval("A", min(one, other), max(one, other))
    start, stop = index.span(interval)
    inside = [found[i] for i in index.entry[start:stop]]
    assert inside == sorted(key for key in found if interval.first <= key <= interval.last)


@given(keys, st.integers(1, 5), st.integers(1, 4), st.lists(positions, max_size=3))
def test_batches_cover_every_kept_record_once_and_cross_neither_runs_nor_pieces(
    found: Any, size: int, prescale: int, cuts: Any
) -> None:
    columns = np.array(found, np.uint64).reshape(-1, 3)
    index = Index.build(*columns.T, name="f")
    whole = Interval.runs("A", 0, 4)
    pieces = [whole]
    for cut in cuts:
        pieces = [
            part
            for piece in pieces
            for part in [*piece.subtract(Interval("A", cut, cut)), piece.intersect(Interval("A", cut, cut))]
            if part
        ]
    pieces.sort()
    plan = make_plan(
        index, "A", "event", whole, [Piece(p, {}) for p in pieces], prescale=prescale, batch_events=size
    )
    assert [i for span in plan.spans for i in range(span.start, span.stop)] == list(range(len(plan.kept)))
    assert plan.prescaled + len(plan.kept) == plan.read == len(found)
    for span in plan.spans:
        assert 1 <= span.stop - span.start <= size
        inside = [index.key("A", int(i)) for i in plan.kept[span.start : span.stop]]
        assert {key.run for key in inside} == {span.run}
        assert all(plan.pieces[span.piece].interval.contains(key) for key in inside)


@settings(max_examples=15)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 40)), unique=True, min_size=1, max_size=40),
    st.integers(1, 50),
    st.integers(1, 3),
)
def test_what_is_collected_does_not_depend_on_batches(
    tmp_path_factory: Any, found: Any, size: int, prescale: int
) -> None:
    from beamwright.event.calibration import collect_path

    raw = toy.write_raw(tmp_path_factory.mktemp("raw") / "r.json", "A", 7, {"event": found})

    def collected(batch_events: int) -> Any:
        calibration = toy.GainFit()
        calibration.reads = ("Header", "Hit")
        done = collect_path(
            [calibration], toy.ToyReader(raw, "A", 7), Interval.sections("A", 7), banks=toy.BANKS,
            batch_events=batch_events, prescale={"event": prescale},
        )  # fmt: skip
        return done.accumulators["GainFit"]["sums"].tolist(), done.ledger

    assert collected(size) == collected(1000)
