"""The production file and the workspace's settings: what is wrong is named, with the nearest valid name."""

from __future__ import annotations

from pathlib import Path

import pytest

from beamwright.core.errors import ConfigError
from beamwright.core.settings import DEFAULT_SETTINGS, Settings, read_settings
from beamwright.production.spec import load_spec, read_spec

GOOD = """
name = "demo"
experiment = "toy"

[[dataset]]
name = "raw"
runs = { A = [1, 2] }
global_tag = "toy"

[[step]]
name = "pass1"
kind = "calibrate"
inputs = ["raw"]
calibrations = ["gain"]

[[step]]
name = "reco"
path = "reco"
inputs = ["raw"]
split = 10

[[step]]
name = "merge"
kind = "merge"
inputs = ["reco.dst"]
"""


def test_a_good_file_is_read_with_defaults() -> None:
    spec = read_spec(GOOD, "demo.toml")
    assert [step.kind for step in spec.step] == ["calibrate", "process", "merge"]
    assert spec.datasets()["raw"].tier == "raw" and spec.steps()["merge"].target_mb == 256


def test_a_file_that_is_no_text_is_refused_at_its_line_and_marks_of_other_editors_are_taken(
    tmp_path: Path,
) -> None:
    file = tmp_path / "demo.toml"
    file.write_bytes(GOOD.encode().replace(b'"demo"', b'"d\xe9mo"'))
    with pytest.raises(ConfigError, match=r"demo\.toml:2: byte 0xe9 is no UTF-8 text"):
        load_spec(file)
    file.write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())
    assert load_spec(file).hash == read_spec(GOOD, "demo.toml").hash


def test_the_hash_depends_on_content_alone() -> None:
    assert read_spec(GOOD, "a").hash == read_spec("# a comment\n" + GOOD, "b").hash
    assert read_spec(GOOD, "a").hash != read_spec(GOOD.replace("10", "11"), "a").hash


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("split = 10", "splitt = 10", r"unknown key 'step.reco.splitt'.*did you mean split"),
        ('global_tag = "toy"', "", "'dataset.raw.global_tag' is missing"),
        (
            'global_tag = "toy"',
            'globl_tag = "toy"',
            r"'dataset.raw.global_tag' is missing; unknown key 'dataset.raw.globl_tag'"
            r".*add it.*; did you mean global_tag",
        ),
        ('inputs = ["reco.dst"]', 'inputs = ["rec.dst"]', "'rec.dst'.*did you mean reco"),
        ('inputs = ["reco.dst"]', 'inputs = ["raw"]', "merges a dataset"),
        ('inputs = ["reco.dst"]', 'inputs = ["reco"]', "step.stream"),
        ('calibrations = ["gain"]', "", "has no calibrations"),
        ('path = "reco"', "", "has no path"),
        ('name = "reco"', 'name = "pass1"', "stands twice"),
        ("split = 10", "split = 0", r"step.reco.split is 0 \(it is 1 or more"),
        ("split = 10", "split = 'ten'", r"step.reco.split is 'ten' \(it is a whole number"),
        ("split = 10", "split = 2.5", r"step.reco.split is 2.5 \(it is a whole number"),
        ("split = 10", "split_mb = nan", r"step.reco.split_mb is nan \(it is more than 0"),
        ("split = 10", "farms = 'near'", r"step.reco.farms is 'near' \(it is a list"),
        (
            "split = 10",
            "retry = [{ action = 'mor' }]",
            r"step.reco.retry.0.action is 'mor' \(did you mean more",
        ),
        (
            "split = 10",
            "retry = [{ failure = 'memry' }]",
            "step.reco.retry.0.failure: .* did you mean memory",
        ),
        ('kind = "merge"', 'kind = "merg"', r"step.merge.kind is 'merg' \(did you mean merge"),
        ('name = "reco"', "name = 3", r"step.1.name is 3 \(it is text"),
        ("[[dataset]]", "[[dataset]", "not valid TOML.*line 5"),
    ],
)
def test_a_wrong_file_is_refused_by_name(old: str, new: str, message: str) -> None:
    with pytest.raises(ConfigError, match="demo.toml") as caught:
        read_spec(GOOD.replace(old, new, 1), "demo.toml")
    assert caught.match(message)


def test_the_default_settings_are_those_of_the_model() -> None:
    assert read_settings(DEFAULT_SETTINGS) == Settings()


def test_a_misspelt_farm_key_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match="unknown key 'farm.near.slot'.*did you mean slots"):
        read_settings("[farm.near]\nslot = 2")
