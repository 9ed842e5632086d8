"""Releases: the same software has one identity, other software another."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from beamwright.core.errors import ReleaseError
from beamwright.production import release

METADATA = (
    "Metadata-Version: 2.4\nName: {name}\nVersion: 1.0\n{needs}\n\nA description.\nRequires-Dist: nothing\n"
)


class Site:
    """A folder of installed distributions, as an installer leaves them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def install(
        self, name: str, code: str = "x = 1\n", needs: tuple[str, ...] = (), interpreter: str = "/usr"
    ) -> None:
        package = self.folder / name.replace("-", "_")
        info = self.folder / f"{package.name}-1.0.dist-info"
        for folder in (package, info, package / "__pycache__"):
            folder.mkdir(parents=True, exist_ok=True)
        (package / "__init__.py").write_text(code)
        (package / "extra.py").write_text(code)
        (package / "__pycache__" / "x.pyc").write_text(interpreter)
        (info / "METADATA").write_text(
            METADATA.format(name=name, needs="\n".join(f"Requires-Dist: {n}" for n in needs))
        )
        (info / "INSTALLER").write_text(interpreter)
        lines = [
            f"{package.name}/__init__.py,sha256={abs(hash(code))},{len(code)}",
            f"{package.name}/extra.py,sha256={abs(hash(code))},{len(code)}",
            f"../../bin/{name},sha256={interpreter},9",
            f"{package.name}/__pycache__/x.pyc,,",
            f"{info.name}/INSTALLER,sha256={interpreter},3",
            f"{info.name}/METADATA,sha256=aa,3",
            f"{info.name}/RECORD,,",
        ]
        (info / "RECORD").write_text("\n".join(lines) + "\n")

    def current(self, *names: str) -> str:
        release._current.cache_clear()
        importlib.invalidate_caches()
        return release.current(names)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A site whose beamwright is a small installed package; the real one is out of sight of the metadata."""
    made = Site(tmp_path / "site")
    made.install("beamwright", needs=("somelib>=2; python_version>'3'", 'extra-lib; extra == "dev"'))
    made.install("somelib", needs=("deeplib",))
    made.install("deeplib")
    made.install("my-experiment", needs=("beamwright",))
    monkeypatch.setattr(sys, "path", [str(made.folder)])
    yield made
    release._current.cache_clear()


def test_an_installed_release_is_exact_and_repeatable(site: Site) -> None:
    first = site.current("my-experiment")
    assert release.is_exact(first)
    assert site.current("my-experiment") == first
    assert release.short(first) == first[:19]


def test_where_software_is_installed_does_not_matter(site: Site) -> None:
    first = site.current("my-experiment")
    for name in ("my-experiment", "somelib"):
        needs = ("beamwright",) if name == "my-experiment" else ("deeplib",)
        site.install(name, needs=needs, interpreter="/home/somebody/venv")
    assert site.current("my-experiment") == first


@pytest.mark.parametrize("name", ["beamwright", "my-experiment", "somelib", "deeplib"])
def test_other_code_anywhere_below_is_another_release(site: Site, name: str) -> None:
    first = site.current("my-experiment")
    needs = {"beamwright": ("somelib>=2",), "my-experiment": ("beamwright",), "somelib": ("deeplib",)}
    site.install(name, "x = 2\n", needs.get(name, ()))
    assert site.current("my-experiment") != first


def test_an_edited_file_of_an_installed_experiment_is_another_release(site: Site) -> None:
    first = site.current("my-experiment")
    (site.folder / "my_experiment" / "__init__.py").write_text("x = 3\n")
    assert site.current("my-experiment") != first


def test_what_is_installed_beside_and_not_needed_does_not_matter(site: Site) -> None:
    first = site.current("my-experiment")
    site.install("extra-lib")
    site.install("unrelated")
    assert site.current("my-experiment") == first


def test_a_tree_that_is_worked_on_is_marked_and_follows_its_content(site: Site) -> None:
    package = site.folder / "loose"
    package.mkdir()
    (package / "__init__.py").write_text("y = 1\n")
    first = site.current("loose")
    assert first.startswith("dev+")
    assert not release.is_exact(first)
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "a.pyc").write_text("z")
    assert site.current("loose") == first
    (package / "banks.toml").write_text("")
    assert site.current("loose") != first


def test_an_editable_installation_is_a_tree(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "worked_on.py").write_text("a = 1\n")
    info = site.folder / "my_experiment-1.0.dist-info"
    (info / "direct_url.json").write_text('{"url": "file:///x", "dir_info": {"editable": true}}')
    (site.folder / "my.pth").write_text(f"{source}\n")
    with (info / "RECORD").open("a") as record:
        record.write("my.pth,,\n")
    monkeypatch.setattr(sys, "path", [*sys.path, str(source)])
    first = site.current("my-experiment")
    assert first.startswith("dev+")
    (source / "worked_on.py").write_text("a = 2\n")
    second = site.current("my-experiment")
    assert second != first
    other = tmp_path / "other"
    other.mkdir()
    (other / "worked_on.py").write_text("a = 3\n")
    monkeypatch.setattr(sys, "path", [str(other), *sys.path])
    assert site.current("my-experiment") not in (first, second)


def test_an_installation_that_another_folder_hides_is_no_exact_release(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = site.current("my-experiment")
    package = tmp_path / "hiding" / "my_experiment"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("x = 1\n")
    monkeypatch.setattr(sys, "path", [str(package.parent), *sys.path])
    assert release.is_exact(first)
    assert not release.is_exact(site.current("my-experiment"))


def test_missing_software_is_named(site: Site) -> None:
    with pytest.raises(ReleaseError, match="nosuchthing is neither"):
        site.current("nosuchthing")
    (site.folder / "my_experiment" / "extra.py").unlink()
    with pytest.raises(ReleaseError, match="lacks its file"):
        site.current("my-experiment")


def test_another_release_than_the_one_asked_for_is_refused(site: Site) -> None:
    release.check(site.current("my-experiment"), ["my-experiment"])
    with pytest.raises(ReleaseError, match="is asked for and sha256:"):
        release.check("sha256:" + "1" * 64, ["my-experiment"])
