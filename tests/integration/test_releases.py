"""Releases are made from wheels, installed side by side at farms without a network, and verified."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from beamwright.cli.main import cli
from beamwright.core.errors import ReleaseError, UnknownNameError, UsageError
from beamwright.production import installing
from beamwright.production.spec import ProductionSpec, read_spec
from beamwright.production.workspace import Workspace
from support import wheels
from support.toy_production import SPEC

TOY = b"from setup_free import value\n"


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheelhouse: beamwright as it is here, an experiment, and one pure package that a lock file pins."""
    folder = tmp_path_factory.mktemp("wheelhouse")
    pinned = wheels.wheel(folder, "setup-free", {"setup_free.py": b"value = 1\n"})
    wheels.ourselves(folder, ["setup-free>=1"])
    wheels.wheel(folder, "toyexp", {"toyexp/__init__.py": TOY}, ["beamwright", "setup-free"])
    wheels.lock(folder / "lock.txt", [pinned])
    return folder


@pytest.fixture(scope="module")
def made(house: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, installing.Made]:
    workspace = Workspace.create(tmp_path_factory.mktemp("made") / "workspace")
    return workspace, installing.make(workspace, house / "lock.txt", house)


def site(folder: Path) -> Path:
    return next(folder.glob("lib/python*/site-packages"))


def test_a_release_is_named_by_its_content(made: tuple[Workspace, installing.Made], house: Path) -> None:
    workspace, one = made
    assert one.release.startswith("sha256:")
    assert one.own == ("beamwright", "toyexp")
    assert one in installing.made(workspace)
    assert installing.make(workspace, house / "lock.txt", house) == one
    assert installing.find(workspace, one.release[:15]) == one
    assert installing.verify_made(workspace.root / "releases" / one.name) == []
    with pytest.raises(UnknownNameError):
        installing.find(workspace, "sha256:ffff")


def test_two_releases_stand_side_by_side(
    made: tuple[Workspace, installing.Made], house: Path, tmp_path: Path
) -> None:
    workspace, one = made
    other_house = shutil.copytree(house, tmp_path / "house")
    wheels.wheel(other_house, "toyexp", {"toyexp/__init__.py": TOY + b"x = 2\n"}, ["beamwright"])
    other = installing.make(workspace, house / "lock.txt", other_house)
    assert other.release != one.release
    folders = [installing.install(workspace, "near", which) for which in (one, other)]
    there = installing.installed(workspace)
    assert "near" in there[one.release] and there[other.release] == ["near"]
    for folder, expected in zip(folders, ("False", "True"), strict=True):
        said = ask(folder, "import toyexp; print(hasattr(toyexp, 'x'))")
        assert said == expected
        assert installing.verify(folder) == []
    shutil.rmtree(folders[1])


def test_an_installation_sees_itself_and_nothing_else(
    made: tuple[Workspace, installing.Made], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    workspace, one = made
    (tmp_path / "intruder.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    folder = installing.install(workspace, "near", one)
    commands = installing.commands(workspace, "near", one.release)
    assert commands is not None
    assert commands["process"][:2] == [str(installing.interpreter(folder)), "-I"]
    with pytest.raises(subprocess.CalledProcessError):
        ask(folder, "import intruder")
    with pytest.raises(subprocess.CalledProcessError):
        ask(folder, "import pytest")
    paths = json.loads(ask(folder, "import sys, json; print(json.dumps(sys.path))"))
    assert not [path for path in paths if "site-packages" in path and not path.startswith(str(folder))]
    assert installing.commands(workspace, "far", one.release) is None


def ask(folder: Path, code: str) -> str:
    argv = [str(installing.interpreter(folder)), "-I", "-c", code]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()


def test_agents_with_other_code_than_the_jobs_are_told_of_and_make_no_constants(
    made: tuple[Workspace, installing.Made], house: Path, tmp_path: Path
) -> None:
    """Of the experiment's code; the part of an experiment that is here and in a release is beamwright."""
    workspace, one = made
    changed = shutil.copytree(house, tmp_path / "house")
    wheels.ourselves(changed, ["setup-free>=1"], extra=b"x = 1\n")
    other = installing.make(workspace, house / "lock.txt", changed)
    folders = [installing.install(workspace, "near", which) for which in (one, other)]
    makes = read_spec(SPEC, "toy.toml")
    steps = [step for step in makes.step if step.kind != "calibrate"]
    reads = makes.model_copy(update={"constants": [], "step": steps})

    def said(spec: ProductionSpec, release: str, *parts: str) -> str:
        return installing.check_agents(workspace, spec, parts, release, "dev+here")

    assert said(makes, one.release, "beamwright") == ""
    assert "whether the code of toyexp is the same cannot be told" in said(makes, one.release, "toyexp")
    told = said(reads, other.release, "beamwright")
    assert "whose experiment differs in beamwright/extra.py; " in told and str(folders[1]) in told
    with pytest.raises(
        ReleaseError, match=r"step 'pass1' makes constants, .* beamwright/extra\.py"
    ) as caught:
        said(makes, other.release, "beamwright")
    assert f"{installing.interpreter(folders[1])} -I -m beamwright.cli.main produce" in caught.value.hint
    with pytest.raises(ReleaseError, match="it loads constants"):
        said(reads.model_copy(update={"constants": makes.constants}), other.release, "beamwright")
    shutil.rmtree(folders[1])


def test_what_was_changed_is_named(made: tuple[Workspace, installing.Made]) -> None:
    workspace, one = made
    folder = installing.install(workspace, "far", one)
    root = site(folder)
    before = (root / "setup_free.py").read_bytes()
    (root / "setup_free.py").write_text("value = 2\n")
    assert installing.verify(folder) == ["setup_free.py was changed"]
    with pytest.raises(ReleaseError, match=r"setup_free\.py was changed"):
        installing.install(workspace, "far", one)
    (root / "setup_free.py").unlink()
    assert installing.verify(folder) == ["setup_free.py is missing"]
    (root / "setup_free.py").write_bytes(before)
    (root / "added.pth").write_text("import os\n")
    assert installing.verify(folder) == ["added.pth is in no distribution of the release"]
    (root / "added.pth").unlink()
    record = next(root.glob("setup_free-*/RECORD"))
    lines = [line for line in record.read_text().splitlines() if not line.startswith("setup_free.py")]
    record.write_text("\n".join(lines) + "\n")
    (root / "setup_free.py").unlink()
    (problem,) = installing.verify(folder)  # the lists of files are part of the release's name
    assert problem.startswith("it has become sha256:")
    shutil.rmtree(folder)


def test_a_made_release_that_was_changed_is_not_installed(house: Path, tmp_path: Path) -> None:
    workspace = Workspace.create(tmp_path / "workspace")
    one = installing.make(workspace, house / "lock.txt", house)
    kept = workspace.root / "releases" / one.name / "wheels"
    wheels.wheel(kept, "toyexp", {"toyexp/__init__.py": b"evil = True\n"})
    with pytest.raises(ReleaseError, match=r"toyexp-1\.0-py3-none-any\.whl was changed"):
        installing.install(workspace, "near", one)
    assert installing.installed(workspace) == {}
    assert not list(workspace.farm("near").glob("releases/.partial-*"))


def test_a_wheelhouse_that_does_not_fit_is_refused_by_name(house: Path, tmp_path: Path) -> None:
    workspace = Workspace.create(tmp_path / "workspace")
    changed = shutil.copytree(house, tmp_path / "changed")
    wheels.wheel(changed, "setup-free", {"setup_free.py": b"value = 3\n"})
    with pytest.raises(ReleaseError, match=r"setup_free-1\.0-py3-none-any\.whl is not one"):
        installing.make(workspace, house / "lock.txt", changed)
    lacking = shutil.copytree(house, tmp_path / "lacking")
    next(lacking.glob("setup_free*")).unlink()
    with pytest.raises(ReleaseError, match="setup.free"):
        installing.make(workspace, house / "lock.txt", lacking)
    next(lacking.glob("beamwright*")).unlink()
    with pytest.raises(ReleaseError, match="no wheel of beamwright"):
        installing.make(workspace, house / "lock.txt", lacking)
    (tmp_path / "empty.txt").write_text("# nothing\n")
    with pytest.raises(UsageError, match="pins nothing"):
        installing.make(workspace, tmp_path / "empty.txt", house)
    assert installing.made(workspace) == []
    assert not list((workspace.root / "releases").glob(".partial-*"))


def test_what_an_interrupted_installation_left_is_no_release(
    made: tuple[Workspace, installing.Made],
) -> None:
    workspace, one = made
    left = workspace.farm("far") / "releases" / ".partial-0000"
    left.mkdir(parents=True)
    (left / "half").write_text("")
    assert "far" not in installing.installed(workspace).get(one.release, [])
    folder = installing.install(workspace, "far", one)
    assert folder.is_dir()
    assert not left.exists()
    shutil.rmtree(folder)


def test_the_commands(house: Path, tmp_path: Path) -> None:
    workspace = Workspace.create(tmp_path / "workspace")
    where = ["--workspace", str(workspace.root), "--json"]

    def run(*arguments: str) -> list[dict[str, object]]:
        done = CliRunner().invoke(cli, ["release", *arguments, *where], catch_exceptions=False)
        return [json.loads(line) for line in done.stdout.splitlines()]

    given = [str(house / "lock.txt"), str(house)]
    assert run("make", *given, "--dry-run")[0]["own"] == ["beamwright", "toyexp"]
    (one,) = run("make", *given)
    name = str(one["release"])
    assert run("install", "near", name, "--dry-run")[0]["is_installed"] is False
    run("install", "near", name)
    (listed,) = run("ls")
    assert listed["farms"] == ["near"]
    assert listed["python"] == ".".join(map(str, sys.version_info[:3]))
    assert [row["problems"] for row in run("verify")] == [[], []]
    (site(installing.place(workspace, "near", name)) / "setup_free.py").write_text("")
    with pytest.raises(ReleaseError, match="1 of 2 installations"):
        run("verify", name)
