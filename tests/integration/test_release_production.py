"""Two releases in one workspace at once: each production keeps its own, and its jobs see nothing else."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest

from beamwright.agents.loop import Produce
from beamwright.core.errors import ReleaseError
from beamwright.core.settings import DEFAULT_SETTINGS
from beamwright.db import schema
from beamwright.production import experiment as experiments
from beamwright.production import installing
from beamwright.production.release import plain
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


def replace_given(toys: ToyProduction, delivery: object) -> ToyProduction:
    toys.given = [delivery]  # type: ignore[list-item]
    return toys


def produce(toys: ToyProduction, name: str, release: str, runs: list[int] | None = None) -> None:
    spec = toys.spec
    dataset = spec.dataset[0].model_copy(update={"runs": {"A": runs or [1, 2, 3]}})
    steps = [step for step in spec.step if name == "old" or step.kind == "process"]  # constants are the old's
    spec = spec.model_copy(update={"name": name, "freeze": False, "dataset": [dataset], "step": steps})
    given = [replace(one, after="") for one in toys.given]
    Produce(toys.workspace, spec, experiments.load(spec.experiment), 1, given, release=release).run()


def jobs(toys: ToyProduction) -> list[dict[str, object]]:
    return [json.loads(path.read_bytes()) for path in toys.workspace.root.glob("farms/*/jobs/*/*/job.json")]
