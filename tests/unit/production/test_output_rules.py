"""What outputs a step of a production may have: one file per stream, and pointers into files that stay."""

from __future__ import annotations

import dataclasses

import pytest

from beamwright.core.errors import ConfigError
from beamwright.event.path import Output, Path
from beamwright.event.store import Split
from beamwright.production.experiment import load
from beamwright.production.facts import production_facts
from beamwright.production.spec import read_spec

HEAD = """
name = "points"
experiment = "toy"
[[dataset]]
name = "data"
runs = { A = [1] }
global_tag = "open"
[[step]]
name = "reco"
inputs = ["data"]
path = "first"
[[step]]
name = "whole"
kind = "merge"
inputs = ["reco.dst"]
"""


def experiment():
    def path(name, record, **options):
        return lambda: Path(name, record, [], [Output("dst", ("Header",), **options)])

    paths = {"first": path("first", "event"), "points": path("points", "event", pointer=True)}
    return dataclasses.replace(load("support.toy:experiment"), paths=paths)


def test_streams_that_are_split_into_files_are_refused():
    split = Path("points", "event", [], [Output("dst", ("Header",), split=Split(events=5))])
    found = dataclasses.replace(experiment(), paths={"first": lambda: split})
    with pytest.raises(ConfigError, match="splits the stream 'dst' into files"):
        production_facts(found, read_spec(HEAD, "points.toml"))


def facts(inputs):
    step = f'[[step]]\nname = "skim"\npath = "points"\ninputs = ["{inputs}"]\n'
    return production_facts(experiment(), read_spec(HEAD + step, "points.toml"))


def test_a_pointer_skim_of_merged_files_is_fine():
    assert facts("whole.dst")["skim"].streams == {"dst": "dst"}


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ("reco.dst", r"which 'whole' merges \(read whole.dst: the merged files are those that stay"),
        ("data", "pointer skim 'dst' of dataset 'data'"),
    ],
)
def test_pointers_into_raw_data_and_into_what_a_merge_replaces_are_refused(inputs, message):
    with pytest.raises(ConfigError, match=message):
        facts(inputs)


def test_steps_read_no_pointer_skims_and_merges_do():
    skim = '[[step]]\nname = "skim"\npath = "points"\ninputs = ["whole.dst"]\n'
    joined = '[[step]]\nname = "joined"\nkind = "merge"\ninputs = ["skim.dst"]\n'
    assert production_facts(experiment(), read_spec(HEAD + skim + joined, "points.toml"))["joined"].streams
    for name in ("skim.dst", "joined.dst"):
        more = f'[[step]]\nname = "more"\npath = "first"\ninputs = ["{name}"]\n'
        with pytest.raises(ConfigError, match=f"step 'more' reads the pointer skim '{name}'"):
            production_facts(experiment(), read_spec(HEAD + skim + joined + more, "points.toml"))
