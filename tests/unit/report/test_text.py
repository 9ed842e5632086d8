"""Documents and tables as people read them on a terminal."""

from __future__ import annotations

import pytest

from beamwright.report import text

HASH = "1cdbab7b3c54800642d6d2c172b98a6ba87062239ff9b45a7d33161ff7411fbd"


def test_times_are_written_as_dates_wherever_they_stand() -> None:
    lines = text.pairs(
        {"created": 1795320767.1, "frozen": None, "history": [{"at": 1795320767, "target": "ok"}]}
    )
    assert lines[0] == "created  2026-11-22 04:12:47"
    assert lines[1] == "frozen   –"
    assert lines[-1].split() == ["2026-11-22", "04:12:47", "ok"]


def test_a_range_of_keys_is_written_as_in_lists() -> None:
    row = {
        "interval": ["44", [6633, 0, 0], [6633, 2**32 - 1, 2**63 - 1]],
        "chunks": [{"last_section": 2**32 - 1}],
    }
    lines = text.pairs(row)
    assert lines[0] == "interval  44:6633..6633"
    assert lines[-1].strip() == "the end"


def test_hashes_in_tables_and_lists_are_cut_and_stay_whole_where_a_line_is_theirs() -> None:
    lines = text.pairs({"sha256": HASH, "all": [HASH, HASH[::-1]], "rows": [{"release": f"sha256:{HASH}"}]})
    assert lines[0].endswith(HASH)
    assert lines[1].split(maxsplit=1)[1] == f"{HASH[:12]}, {HASH[::-1][:12]}"
    assert lines[-1].strip() == f"sha256:{HASH[:12]}"


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.106512, "0.1065"), (12345.678, "12345.7"), (1.5e15, "1.5e+15"), (250000, "250000")],
)
def test_numbers_keep_their_places_before_the_point(value: float, shown: str) -> None:
    assert text.shown(value) == shown


def test_numbers_of_a_nested_table_stand_to_the_right() -> None:
    lines = text.pairs({"rows": [{"events": 5}, {"events": 1200}]})
    assert lines[-2:] == ["       5", "    1200"]
