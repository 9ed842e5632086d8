"""Releases: the identity of the software that runs, recomputed wherever it runs.

A release is the sha256 over what is installed: the content of beamwright and of the experiment, and the
records of
everything that they need. Software that is worked on in place (an editable installation, or a plain folder)
is identified by the
content of its tree and marked ``dev``.
"""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import json
import re
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import metadata
from importlib.machinery import PathFinder
from pathlib import Path
from typing import NamedTuple

from beamwright.core.canonical import content_hash
from beamwright.core.errors import ReleaseError

OWN = "beamwright"
DEV, EXACT = "dev+", "sha256:"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_SKIPPED = re.compile(r"(^|/)(__pycache__|\.[^/]*|[^/]*\.(egg-info|dist-info))(/|$)|\.py[co]$")
# What an installer writes of itself, and scripts that name an interpreter, differ from place to place.
_LOCAL = re.compile(r"^(\.\.|/)|\.dist-info/(RECORD|INSTALLER|REQUESTED|direct_url\.json)$|\.py[co]$")


def current(distributions: Iterable[str]) -> str:
    """Return the release of beamwright with the distributions (or, where not installed, the modules) named.

    Raises: ReleaseError.
    """
    return _current(tuple(sorted({OWN, *distributions})))


def contents(name: str) -> dict[str, str] | None:
    """Return the sha256 of each file of a distribution's code as it would be imported here.

    None: it is not installed.
    """
    found = _installed().get(plain(name))
    if found is None:
        return None
    trees = _trees_of(name, found.distribution)
    paths = {} if trees else _recorded(found.distribution)
    for root in trees.values():
        paths |= {f"{root.name}/{n}" if root.is_dir() else n: path for n, path in _tree_files(root).items()}
    here = {file: path for file, path in paths.items() if is_code(file) and path.is_file()}
    return {file: _sha256(path) for file, path in here.items()}


def is_code(name: str) -> bool:
    """Tell whether a file that an installer recorded is of the software itself."""
    return not _SKIPPED.search(name) and not _LOCAL.search(name)


def is_exact(release: str) -> bool:
    """Tell whether a release names installed software, not a tree that is worked on."""
    return release.startswith(EXACT)


def check(release: str, distributions: Iterable[str]) -> None:
    """Refuse to run under another release than the one asked for.

    Raises: ReleaseError.
    """
    found = current(distributions)
    if found != release:
        raise ReleaseError(
            f"release {short(release)} is asked for and {short(found)} is installed",
            hint="install the release that the production was started with, or start a new production",
        )


def short(release: str) -> str:
    """Return the beginning of a release, for messages."""
    mark, sign, digits = release.partition("+" if release.startswith(DEV) else ":")
    return f"{mark}{sign}{digits[:12]}"


class _Installed(NamedTuple):
    """An installed distribution with what its metadata says; the standard library takes ten times as long."""

    distribution: metadata.Distribution
    name: str
    version: str
    needs: tuple[str, ...]


@cache
def _current(names: tuple[str, ...]) -> str:
    known = _installed()
    own: dict[str, str] = {}
    is_dev = False
    for name in names:
        found = known.get(plain(name))
        trees = _trees_of(name, found.distribution) if found else {name: _module_tree(name)}
        is_dev |= bool(trees)
        own[plain(name)] = _hash_trees(trees) if trees else _hash_files(known[plain(name)].distribution)
    needed = {name: _hash_record(known[name]) for name in sorted(_closure(names, known))}
    digest = content_hash({"own": own, "needed": needed})
    return f"{DEV if is_dev else EXACT}{digest}"


def _installed() -> dict[str, _Installed]:
    """Return the distributions by plain name; the first on the path counts."""
    found: dict[str, _Installed] = {}
    for distribution in metadata.distributions():
        head = (distribution.read_text("METADATA") or "").partition("\n\n")[0]
        fields = dict(re.findall(r"^(Name|Version): *(.*)$", head, re.MULTILINE))
        if len(fields) == 2:
            needs = tuple(re.findall(r"^Requires-Dist: *(.*)$", head, re.MULTILINE))
            name = plain(fields["Name"])
            found.setdefault(name, _Installed(distribution, name, fields["Version"], needs))
    return found


def plain(name: str) -> str:
    """Return a distribution's name as installers compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _closure(names: Iterable[str], known: dict[str, _Installed]) -> set[str]:
    """Return what the distributions need, directly or not, as far as it is installed."""
    own = {plain(name) for name in names}
    queue, seen = sorted(own & known.keys()), set(own)
    while queue:
        for requirement in known[queue.pop()].needs:
            match = _NAME.match(requirement)
            name = plain(match.group()) if match else ""
            if name in known and name not in seen and "extra ==" not in requirement:
                seen.add(name)
                queue.append(name)
    return seen - own


def _trees_of(name: str, distribution: metadata.Distribution) -> dict[str, Path]:
    """Return, by module, the source trees of software that is not imported from where it was installed."""
    origin = json.loads(distribution.read_text("direct_url.json") or "{}")
    if not origin.get("dir_info", {}).get("editable"):
        tops = {_top(path): Path(str(distribution.locate_file(path))) for path in _recorded(distribution)}
        places = {top: path for top, path in tops.items() if top and path.suffix == ".py"}
        found = {top: _module_tree(top) for top in places}
        resolved = {top: path.resolve() for top, path in places.items()}
        is_elsewhere = any(found[top] not in (path, *path.parents) for top, path in resolved.items())
        return found if is_elsewhere else {}
    paths = [path for file, path in _recorded(distribution).items() if file.endswith(".pth")]
    folders = [Path(line) for path in paths for line in path.read_text().splitlines() if line]
    modules = {
        entry.stem for folder in folders if folder.is_dir() for entry in folder.iterdir() if _is_module(entry)
    }
    return {module: _module_tree(module) for module in sorted(modules)} or {name: _module_tree(name)}


def _top(recorded: str) -> str:
    """Return the top-level module that a recorded file belongs to, "" for none."""
    first = recorded.partition("/")[0]
    return "" if _LOCAL.search(recorded) or "." in first.removesuffix(".py") else first.removesuffix(".py")


def _is_module(entry: Path) -> bool:
    return (entry / "__init__.py").is_file() or entry.suffix == ".py"


def _module_tree(name: str) -> Path:
    """Return the package's folder, or the file of a module, that an import would take."""
    module = name.replace("-", "_")
    try:
        spec = (None if "." in module else PathFinder.find_spec(module)) or importlib.util.find_spec(module)
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is None:
        raise ReleaseError(
            f"{name} is neither an installed distribution nor a module",
            hint="correct the distributions of the Experiment, or install it",
        )
    origin = Path(spec.origin).resolve()
    return origin.parent if spec.submodule_search_locations else origin


def _hash_trees(trees: Mapping[str, Path]) -> str:
    return content_hash({module: _hash_tree(root) for module, root in trees.items()})


def _hash_tree(root: Path) -> str:
    """Return the hash of all files of a source tree, or of one file."""
    return content_hash({name: _sha256(path) for name, path in _tree_files(root).items()})


def _tree_files(root: Path) -> dict[str, Path]:
    """Return the files of a source tree by their names below it, or one file."""
    paths = [root] if root.is_file() else sorted(path for path in root.rglob("*") if path.is_file())
    base = root.parent if root.is_file() else root
    named = {path.relative_to(base).as_posix(): path for path in paths}
    return {name: path for name, path in named.items() if not _SKIPPED.search(name)}


def _recorded(distribution: metadata.Distribution) -> dict[str, Path]:
    """Return the files that an installer recorded, those that are gone since as well."""
    rows = csv.reader((distribution.read_text("RECORD") or "").splitlines())
    return {row[0]: Path(str(distribution.locate_file(row[0]))) for row in rows if row}


def _hash_files(distribution: metadata.Distribution) -> str:
    """Return the hash of the files of an installed distribution as they are on the disk."""
    files = _recorded(distribution).items()
    return content_hash({name: _sha256(path) for name, path in files if not _LOCAL.search(name)})


def _hash_record(installed: _Installed) -> str:
    """Return the hash of an installed distribution's list of files, without what is local."""
    text = installed.distribution.read_text("RECORD") or ""
    lines = [line for line in text.splitlines() if line and not _LOCAL.search(line.rsplit(",", 2)[0])]
    return content_hash([installed.version, sorted(lines)])


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except FileNotFoundError as error:
        raise ReleaseError(f"the installation lacks its file {path}", hint="install it again") from error
