"""Detector files of all versions give the same geometry; malformed ones name the line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from orca.detx import read_detector
from orca.errors import DetectorFileError
from support.orca_samples import sample

FILES = {
    "detx/detx_v1.detx": (1, 1, 6),
    "detx/detx_v2.detx": (23, 2, 6),
    "detx/detx_v3_whitespace.detx": (23, 3, 6),
    "detx/detx_v4.detx": (44, 4, 90),
    "detx/detx_v5.detx": (49, 5, 108),
    "detx/km3net_offline.detx": (44, 2, 90),
    "detx/D_ORCA006_t.A02181836.p.A02181837.r.A02182001.detx": (49, 3, 108),
    "detx/KM3NeT_00000133_20221025.detx": (133, 5, 378),
    "detector_geometry/KM3NeT_00000232.detector.datx": (232, 5, 539),
}


@pytest.mark.parametrize("name", FILES)
def test_every_version_reads(name):
    detector = read_detector(sample(name))
    assert (detector.id, detector.version, len(detector)) == FILES[name]
    assert (np.diff(detector.dom_id) > 0).all()
    assert np.isfinite(detector.centre).all()


def test_binary_and_text_form_agree(detector133):
    binary = read_detector(sample("datx/KM3NeT_00000133_20221025.datx"))
    assert np.array_equal(binary.dom_id, detector133.dom_id)
    assert np.array_equal(binary.position, detector133.position)
    assert np.array_equal(binary.t0, detector133.t0)


def test_dom_centres_before_version_4_are_where_the_axes_cross(detector44):
    given = read_detector(sample("detx/detx_v4.detx"))
    shift = detector44.centre - given.centre
    assert shift == pytest.approx(np.broadcast_to([-100.0, 0.0, 0.0], shift.shape), abs=1e-3)


def test_intra_dom_offsets_of_the_answer_key_have_their_spread(detector44):
    assert np.sqrt(((detector44.t0 - detector44.mean_t0()) ** 2).mean()) == pytest.approx(1.59, abs=0.005)


def test_rows_finds_doms_and_says_which_are_missing(detector44):
    rows = detector44.rows(np.array([detector44.dom_id[7], 1, detector44.dom_id[-1], 2**31 - 1]))
    assert rows.tolist() == [7, -1, 89, -1]


def test_a_comment_without_its_mark_is_an_error_with_line_number():
    with pytest.raises(DetectorFileError, match=r"line 109: 4 words expected for .*needs # on each"):
        read_detector(sample("detx/detx_v5_invalid_multiline_comments.detx"))


def test_malformed_text_names_the_line(tmp_path: Path):
    good = sample("detx/detx_v3.detx").read_text().splitlines()
    cases = {
        "ends": (good[:-1], "the file ends where a PMT of module"),
        "number": ([*good[:7], good[7].replace("1.1", "one"), *good[8:]], "line 8: a number expected"),
        "version": ([w.replace("v3", "v9") for w in good], "version 9 is not known"),
        "more": ([*good, "1 2 3"], "more lines than the modules announced"),
        "integer": ([w.replace("23 v3", "det v3") for w in good], "line 3: an integer expected, 'det' found"),
        "empty": ([], "the file ends where the header"),
    }
    for name, (lines, message) in cases.items():
        path = tmp_path / f"{name}.detx"
        path.write_text("\n".join(lines))
        with pytest.raises(DetectorFileError, match=message):
            read_detector(path)


@pytest.mark.parametrize("size", [0, 500, 50_000, 700_000])
def test_a_truncated_binary_file_is_a_clear_error(tmp_path: Path, size: int):
    path = tmp_path / "cut.datx"
    path.write_bytes(sample("datx/KM3NeT_00000133_20221025.datx").read_bytes()[:size])
    with pytest.raises(DetectorFileError, match=r"cut\.datx, byte \d+: .*the file ends"):
        read_detector(path)


def test_a_missing_file_is_a_clear_error(tmp_path: Path):
    with pytest.raises(DetectorFileError, match="opening"):
        read_detector(tmp_path / "none.detx")
