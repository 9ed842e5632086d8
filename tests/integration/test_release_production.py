"""Two releases in one workspace at once: each production keeps its own, and its jobs see nothing else."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest

from beamwright.agents.loop import Produce
from beamwright.conditions import tags
from beamwright.core.errors import ReleaseError
from beamwright.core.settings import DEFAULT_SETTINGS
from beamwright.db import schema
from beamwright.fsck import run as fsck
from beamwright.production import experiment as experiments
from beamwright.production import installing, loading
from beamwright.production.interventions import Why
from beamwright.production.release import plain
from beamwright.production.spec import read_spec
from support import wheels
from support.toy_production import SPEC, ToyProduction, deliver

RECO = SPEC[: SPEC.index('[[step]]\nname = "bursts"')]
ONE_FARM = DEFAULT_SETTINGS[: DEFAULT_SETTINGS.index("[farm.far]")] + "installed_only = true\n"


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheelhouse with all that beamwright needs, as it is installed here, and the toy experiment."""
    folder = tmp_path_factory.mktemp("wheelhouse")
    needed, queue = set[str](), ["beamwright"]
    while queue:
        for need in metadata.requires(queue.pop()) or ():
            name = plain(re.split(r"[^\w.-]", need)[0])
            if "extra ==" not in need and name not in needed and is_here(name):
                needed.add(name)
                queue.append(name)
    pinned = [wheels.repacked(folder, name) for name in sorted(needed)]
    wheels.lock(folder / "lock.txt", pinned)
    wheels.ourselves(folder, [])
    toy(folder)
    return folder


def is_here(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def toy(folder: Path, comment: bytes = b"") -> None:
    """Write the wheel of the toy experiment."""
    root = Path(__file__).parents[1] / "support"
    files = {
        f"support/{name}": (root / name).read_bytes() for name in ("toy.py", "toy.toml", "toy_production.py")
    }
    files["support/__init__.py"] = comment
    wheels.wheel(folder, "support.toy", files, ["beamwright"])


@pytest.mark.slow
def test_productions_run_side_by_side_each_under_its_release(house: Path, tmp_path: Path) -> None:
    toys = ToyProduction(tmp_path, RECO, ONE_FARM)
    workspace, name = toys.workspace, "support.toy_production:experiment"
    old = installing.make(workspace, house / "lock.txt", house, name)
    toy(house, b"# the next version\n")
    new = installing.make(workspace, house / "lock.txt", house, name)
    assert old.release != new.release
    with pytest.raises(ReleaseError, match="'pass1' is not installed at any farm it may run at: near"):
        produce(toys, "old", old.release)
    installing.install(workspace, "near", old)
    produce(toys, "old", old.release)
    installing.install(workspace, "near", new)
    produce(toys, "new", new.release)
    again = deliver(tmp_path / "raw", 4, 1, range(3))
    produce(replace_given(toys, again), "old", old.release, runs=[1, 2, 3, 4])

    for production, release in (("old", old.release), ("new", new.release)):
        documents = [d for d in jobs(toys) if d["production"] == production]
        python = str(installing.interpreter(installing.place(workspace, "near", release)))
        assert {d["release"] for d in documents} == {release}
        assert {tuple(d["commands"]["process"][:2]) for d in documents} == {(python, "-I")}
    states = {row.state for row in toys.rows(schema.job)}
    assert states == {"ok"}
    runs = {d["interval"][1][0] for d in jobs(toys) if d["production"] == "old"}
    assert runs == {1, 2, 3, 4}
    assert [
        installing.verify(path) for path in sorted(workspace.farm("near").glob("releases/[0-9a-f]*"))
    ] == [[], []]


AGAIN = """
name = "again"
experiment = "support.toy_production:experiment"
uniform = true
[[dataset]]
name = "raw"
runs = { A = [1, 2, 3] }
global_tag = "again-1"
[[step]]
name = "reco"
path = "reco"
inputs = ["raw"]
split = 30
"""


@pytest.mark.slow
def test_a_uniform_reprocessing_goes_on_beside_prompt_processing(house: Path, tmp_path: Path) -> None:
    """With one installed release and one frozen global tag; a working tree could not be uniform."""
    toys = ToyProduction(tmp_path, RECO, ONE_FARM)
    workspace, spec = toys.workspace, read_spec(AGAIN, "again.toml")
    experiment = experiments.load(spec.experiment)
    made = installing.make(workspace, house / "lock.txt", house, spec.experiment)
    installing.install(workspace, "near", made)
    produce(toys, "old", made.release)
    with workspace.db.begin() as conn:
        now = workspace.clock.now()
        tags.create_global_tag(conn, "again-1", now)
        tags.sweep(conn, "again-1", tags.members(conn, "toy-real"), now)
        loading.freeze(conn, "again-1", Why("shifter", "all is there", now))
    again = Produce(workspace, spec, experiment, release=made.release)
    late = deliver(tmp_path / "raw", 4, 1, range(8))
    production(replace_given(toys, late), "old", made.release, [1, 2, 3, 4], again).run()

    documents = {d["attempt"]["nonce"]: d for d in jobs(toys)}  # type: ignore[index]
    accepted = toys.rows(schema.attempt, schema.attempt.c.state == "accepted")
    mine = [row for row in accepted if documents[row.nonce]["production"] == "again"]
    prompt = [row for row in accepted if documents[row.nonce]["interval"][1][0] == 4]  # type: ignore[index]
    assert {row.release for row in mine} == {made.release} and len(mine) >= 3 and prompt
    assert min(row.started for row in mine) < max(row.ended for row in prompt)
    assert min(row.started for row in prompt) < max(row.ended for row in mine)
    tasks = {(row.production_id, row.step): row for row in toys.rows(schema.task)}
    assert [row.uniform for row in tasks.values()] == [False, False, True]
    assert {row.state for row in tasks.values()} == {"closed"}
    assert fsck(workspace.db, workspace.root) == []


def replace_given(toys: ToyProduction, delivery: object) -> ToyProduction:
    toys.given = [delivery]  # type: ignore[list-item]
    return toys


def produce(toys: ToyProduction, name: str, release: str, runs: list[int] | None = None) -> None:
    production(toys, name, release, runs).run()


def production(
    toys: ToyProduction, name: str, release: str, runs: list[int] | None = None, *beside: Produce
) -> Produce:
    spec = toys.spec
    dataset = spec.dataset[0].model_copy(update={"runs": {"A": runs or [1, 2, 3]}})
    steps = [step for step in spec.step if name == "old" or step.kind == "process"]  # constants are the old's
    spec = spec.model_copy(update={"name": name, "freeze": False, "dataset": [dataset], "step": steps})
    given = [replace(one, after="") for one in toys.given]
    experiment = experiments.load(spec.experiment)
    return Produce(toys.workspace, spec, experiment, 1, given, release=release, beside=beside)


def jobs(toys: ToyProduction) -> list[dict[str, object]]:
    return [json.loads(path.read_bytes()) for path in toys.workspace.root.glob("farms/*/jobs/*/*/job.json")]
