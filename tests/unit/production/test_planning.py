"""Splitting, merging groups and the broker: pure decisions."""

from __future__ import annotations

from itertools import chain
from types import SimpleNamespace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from beamwright.core.runs import Interval, after
from beamwright.core.settings import Farm
from beamwright.production.broker import Candidate, assign
from beamwright.production.merging import compatible, cut
from beamwright.production.splitting import Item, part_name, ranges

WHOLE = Interval.sections("a", 7)


def item(sections: list[int], events: list[int]) -> Item:
    keys = (np.array(sections), np.array(events))
    return Item(WHOLE, (), "gt", False, False, {"event": len(sections)}, chunk_ids=(1,), keys=keys)


@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(0, 9)), unique=True, max_size=40), st.integers(1, 12)
)
def test_ranges_cover_the_item_exactly_and_hold_what_they_say(keys: list[tuple[int, int]], size: int) -> None:
    ordered = sorted(keys)
    found = ranges(item([s for s, _ in ordered], [e for _, e in ordered]), size)
    assert found[0][0].first == WHOLE.first and found[-1][0].last == WHOLE.last
    assert all(after(a[0].last) == b[0].first for a, b in zip(found, found[1:], strict=False))
    for interval, count in found:
        inside = [key for key in ordered if interval.first <= (7, *key) <= interval.last]
        assert len(inside) == count and (count or 0) <= size


KINDS: dict[str, list[object]] = {
    "series": ["a", "b"], "release": ["sha256:1", "sha256:2"], "config_hash": ["c", "d"],
    "global_tag": ["open", "frozen"], "is_mc": [False, True], "is_resampled": [False, True],
}  # fmt: skip
COLLECTION = st.fixed_dictionaries({name: st.sampled_from(of) for name, of in KINDS.items()})


@given(st.lists(COLLECTION, max_size=30))
def test_nothing_is_merged_across_releases_configurations_constants_or_kinds_of_data(
    found: list[dict[str, object]],
) -> None:
    rows = [SimpleNamespace(**one) for one in found]
    groups = list(compatible(rows).values())
    assert sorted(map(id, chain.from_iterable(groups))) == sorted(map(id, rows))
    kinds = [{tuple(getattr(row, name) for name in KINDS) for row in group} for group in groups]
    assert [len(kind) for kind in kinds] == [1] * len(groups)
    assert len(set().union(*kinds)) == len(groups)


def test_an_item_without_an_index_is_one_unit() -> None:
    assert ranges(Item(WHOLE, (), "gt", False, False, {}), 5) == [(WHOLE, None)]


@given(st.lists(st.integers(0, 30), max_size=20), st.integers(1, 50), st.integers(0, 20))
def test_merge_groups_do_not_depend_on_when_one_looks(sizes: list[int], target: int, seen: int) -> None:
    final = cut(sizes, target, True)
    early = cut(sizes[:seen], target, False)
    assert early == final[: len(early)]
    assert [i for group in final for i in range(len(sizes))[group]] == list(range(len(sizes)))


def test_the_broker_fills_the_farm_with_most_free_power_and_keeps_the_order() -> None:
    farms = {"slow": Farm(slots=2, power=1.0), "fast": Farm(slots=1, power=3.0)}
    jobs = [Candidate(1), Candidate(2), Candidate(3), Candidate(4)]
    assert assign(jobs, farms, {}) == [(1, "fast"), (2, "slow"), (3, "slow")]


def test_a_job_that_may_run_on_one_farm_waits_for_it_without_blocking_others() -> None:
    farms = {"near": Farm(slots=1), "far": Farm(slots=1)}
    jobs = [Candidate(1, ("far",)), Candidate(2)]
    assert assign(jobs, farms, {"far": 1}) == [(2, "near")]


def test_part_names_tell_series_run_section_event_and_last_run() -> None:
    assert part_name(Interval.sections("44", 6884, 369)) == "44.00006884.0000369"
    assert part_name(Interval("44", (1, 2, 3), (4, 5, 6))) == "44.00000001.0000002.3-00000004"
