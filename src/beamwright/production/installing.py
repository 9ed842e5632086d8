"""Releases as installations: made from a lock file and a wheelhouse, installed with no network.

A made release is the folder ``releases/<hash>`` of the workspace: its manifest, the lock file and the wheels.
Installed, it is the folder ``releases/<hash>`` of a farm: an environment that sees nothing but what was
installed there. Both come to be under another name, are synced and renamed: they are there whole or not at
all.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from beamwright import durable
from beamwright.core.canonical import canonical_json
from beamwright.core.errors import ConfigError, ReleaseError, UnknownNameError, UsageError, nearest
from beamwright.production.release import EXACT, OWN, contents, is_code, plain, short
from beamwright.production.spec import ProductionSpec
from beamwright.production.tasks import Facts
from beamwright.production.workspace import Workspace

FOLDER, MANIFEST, LOCK, WHEELS, REQUIREMENTS = "releases", "release.json", "lock.txt", "wheels", "own.txt"
COMMAND = ("-I", "-m", "beamwright.cli.main")
_PINNED = re.compile(r"^([A-Za-z0-9][\w.-]*)(?:\[[^\]]*\])?\s*==\s*([^\s;\\]+)", re.MULTILINE)
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
_WHEEL = re.compile(r"([^-]+)-([^-]+)(-[^-]+)?-[^-]+-[^-]+-[^-]+\.whl")
_IDENTITY = "import sys; from beamwright.production import release; print(release.current(sys.argv[1:]))"
_PARTS = (
    "import sys, json; from beamwright.production import experiment; "
    "print(json.dumps(sorted(experiment.load(sys.argv[1]).distributions)))"
)
_FACTS = "from beamwright.production import facts; facts.main()"


@dataclass(frozen=True)
class Made:
    """A made release: ``own`` are the distributions that the lock file does not pin, ``wheels`` hashes."""

    release: str
    experiment: str
    own: tuple[str, ...]
    python: str
    lock: str
    wheels: Mapping[str, str]

    @property
    def name(self) -> str:
        return self.release.removeprefix(EXACT)


def make(workspace: Workspace, lock: Path, wheelhouse: Path, experiment: str = "") -> Made:
    """Make a release: what the lock file pins, and the wheels of the wheelhouse that it does not know.

    Raises: ReleaseError naming a wheel that is not what is pinned, or is missing; UsageError.
    """
    wheels, own = choose(lock, wheelhouse)
    root = workspace.root / FOLDER
    with _building(root) as partial:
        (partial / WHEELS).mkdir()
        digests = {path.name: _copied(path, partial / WHEELS / path.name) for path in wheels}
        shutil.copyfile(lock, partial / LOCK)
        lines = [f"./{WHEELS}/{p.name} --hash=sha256:{digests[p.name]}" for p in wheels if _name(p) in own]
        (partial / REQUIREMENTS).write_text("\n".join(lines) + "\n")
        trial = partial / "trial"
        _populate(trial, partial)
        made = Made(_identity(trial, own), experiment, own, _python(), _sha256(lock), digests)
        if experiment:
            _check_parts(trial, experiment, own)
        shutil.rmtree(trial)
        (partial / MANIFEST).write_bytes(canonical_json(asdict(made)))
        _appear(partial, root / made.name)
    return made


def choose(lock: Path, wheelhouse: Path) -> tuple[list[Path], tuple[str, ...]]:
    """Return the wheels of a release, and the distributions among them that the lock file does not know.

    Raises: ReleaseError naming a wheel that is not what is pinned, UsageError.
    """
    pinned, known = _pins(lock)
    wheels = _chosen(wheelhouse, pinned, known)
    own = tuple(sorted(_name(path) for path in wheels if _name(path) not in pinned))
    if OWN not in own:
        raise ReleaseError(
            f"the wheelhouse {wheelhouse} has no wheel of {OWN}",
            hint=f"build it: pip wheel --no-deps --wheel-dir {wheelhouse} {OWN}",
        )
    return wheels, own


def made(workspace: Workspace) -> list[Made]:
    """Return the releases that were made in a workspace, by name."""
    return [_read(path.parent) for path in sorted((workspace.root / FOLDER).glob(f"[0-9a-f]*/{MANIFEST}"))]


def find(workspace: Workspace, name: str) -> Made:
    """Return a made release by (the beginning of) its name.

    Raises: UnknownNameError, UsageError where several begin so.
    """
    wanted = name.removeprefix(EXACT)
    known = made(workspace)
    found = [one for one in known if wanted and one.name.startswith(wanted)]
    if len(found) > 1:
        raise UsageError(f"{len(found)} releases begin with {name!r}", hint="write more of the name")
    if not found:
        raise UnknownNameError("release", name, [one.release for one in known])
    return found[0]


def install(workspace: Workspace, farm: str, one: Made) -> Path:
    """Install a made release at a farm, or see that it is there unchanged; return its folder.

    Raises: UnknownNameError, ReleaseError when it comes out as another one or was changed.
    """
    folder = place(workspace, farm, one.release)
    if folder.exists():
        problems = verify(folder)
        if problems:
            hint = f"remove {folder}, and install it again"
            raise ReleaseError(f"release {short(one.release)} at farm {farm}: {problems[0]}", hint=hint)
        return folder
    source = workspace.root / FOLDER / one.name
    problem = next(iter(verify_made(source)), "")
    if problem:
        raise ReleaseError(f"release {short(one.release)}: {problem}", hint="make it again from its wheels")
    with _building(folder.parent) as partial:
        _populate(partial, source, compiled=True)
        found = _identity(partial, one.own)
        if found != one.release:
            message = f"release {short(one.release)} comes out as {short(found)} at farm {farm}"
            raise ReleaseError(message, hint=f"it was made with Python {one.python}; this is {_python()}")
        shutil.copyfile(source / MANIFEST, partial / MANIFEST)
        _appear(partial, folder)
    return folder


def place(workspace: Workspace, farm: str, release: str) -> Path:
    """Return where a release is, or would be, installed at a farm.

    Raises: UnknownNameError.
    """
    if farm not in workspace.settings.farm:
        raise UnknownNameError("farm", farm, workspace.settings.farm)
    return workspace.farm(farm) / FOLDER / release.removeprefix(EXACT).replace("/", "_")


def is_installed(workspace: Workspace, farm: str, release: str) -> bool:
    """Tell whether a farm has a release."""
    return release.startswith(EXACT) and (place(workspace, farm, release) / MANIFEST).is_file()


def installed(workspace: Workspace) -> dict[str, list[str]]:
    """Return the farms that have a release, by release."""
    found: dict[str, list[str]] = {}
    for farm in sorted(workspace.settings.farm):
        for path in sorted((workspace.farm(farm) / FOLDER).glob(f"[0-9a-f]*/{MANIFEST}")):
            found.setdefault(f"{EXACT}{path.parent.name}", []).append(farm)
    return found


def commands(workspace: Workspace, farm: str, release: str) -> dict[str, list[str]] | None:
    """Return the commands of jobs under a release that a farm has: its interpreter, closed to all else."""
    if not is_installed(workspace, farm, release):
        return None
    start = [str(interpreter(place(workspace, farm, release))), *COMMAND]
    return {name: [*start, name] for name in ("process", "validate")}


def interpreter(folder: Path) -> Path:
    """Return the interpreter of an installed release."""
    return folder / "bin" / "python"


def usable(workspace: Workspace, release: str, here: str) -> list[str]:
    """Return the farms whose jobs can run under a release; ``here`` is the one that runs now."""
    return [
        name
        for name, farm in workspace.settings.farm.items()
        if is_installed(workspace, name, release) or (release == here and not farm.installed_only)
    ]


def check_farms(workspace: Workspace, spec: ProductionSpec, release: str, here: str) -> None:
    """Refuse a production of which some step can run at no farm, or names one that is not there.

    Raises: ConfigError, ReleaseError, naming step and farms, with the command that helps.
    """
    able, known = set(usable(workspace, release, here)), workspace.settings.farm
    for step in spec.step:
        odd = [name for name in step.farms if name not in known]
        if odd:
            message = f"step {step.name!r} may run at {odd[0]!r}, which is no farm of this workspace"
            raise ConfigError(message, hint=nearest(odd[0], known))
        farms = step.farms or list(known)
        if not able & set(farms):
            names = ", ".join(farms)
            raise ReleaseError(
                f"release {short(release)} of step {step.name!r} is not installed at any farm it may run at: "
                f"{names}",
                hint=f"`beamwright release install {farms[0] if farms else 'FARM'} {short(release)}`",
            )


def check_agents(
    workspace: Workspace, spec: ProductionSpec, experiment: Iterable[str], release: str, here: str
) -> str:
    """Return what is to be said of agents that run here for jobs under another release, "" for nothing.

    ``experiment`` are its distributions. Constants are what agents load and chains begin with: a production
    that makes some needs agents with the code of its release. Raises: ReleaseError.
    """
    folder = anywhere(workspace, release)
    differing, unknown = _compared(folder, experiment)
    if not differing and not unknown:
        return ""
    command = f"`{interpreter(folder)} {' '.join(COMMAND)} produce FILE`"
    who = f"agents run under {short(here)} here, jobs under {short(release)}"
    if not differing:
        return f"{who}; whether the code of {unknown[0]} is the same cannot be told: it is not installed here"
    more = f" and {len(differing) - 1} more" if len(differing) > 1 else ""
    what = f"{who}, whose experiment differs in {differing[0]}{more}"
    makers = [step.name for step in spec.step if step.kind == "calibrate"]
    if makers or spec.constants:
        whose = f"step {makers[0]!r} makes" if makers else "it loads"
        hint = f"let the release itself do all: {command}"
        raise ReleaseError(f"production {spec.name}: {whose} constants, and {what}", hint=hint)
    return f"{what}; {command} does all under one"


def _compared(folder: Path, experiment: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return the files in which an installed release differs from what is here, and what is not here."""
    differing: set[str] = set()
    unknown: list[str] = []
    records = {_name(path.parent): path for path in _site(folder).glob("*.dist-info/RECORD")}
    for name in sorted(experiment):
        mine, record = contents(name), records.get(plain(name))
        if mine is None or record is None:
            unknown.append(name)
            continue
        theirs = {file: digest for file, digest in _rows(record) if is_code(file)}
        differing |= {file for file in mine.keys() | theirs.keys() if mine.get(file) != theirs.get(file)}
    return sorted(differing), unknown


def facts(workspace: Workspace, spec: ProductionSpec, release: str) -> dict[str, Facts]:
    """Return what the experiment's code says of the steps, as it is in an installed release.

    Raises: ReleaseError where it is installed nowhere, or says that the file does not fit it.
    """
    said = _ask(anywhere(workspace, release), _FACTS, text=spec.model_dump_json())
    return {name: Facts.from_document(document) for name, document in json.loads(said).items()}


def anywhere(workspace: Workspace, release: str) -> Path:
    """Return the folder of a release at any farm.

    Raises: ReleaseError.
    """
    farm = next((n for n in workspace.settings.farm if is_installed(workspace, n, release)), None)
    if farm is None:
        hint = f"`beamwright release install {next(iter(workspace.settings.farm))} {short(release)}`"
        raise ReleaseError(f"release {short(release)} is installed at no farm", hint=hint)
    return place(workspace, farm, release)


def verify_made(folder: Path) -> list[str]:
    """Return what is wrong with a made release: wheels that are missing or changed."""
    one = _read(folder)
    expected = {f"{WHEELS}/{name}": digest for name, digest in one.wheels.items()} | {LOCK: one.lock}
    return [problem for name, digest in sorted(expected.items()) if (problem := _wrong(folder, name, digest))]


def verify(folder: Path) -> list[str]:
    """Return what is wrong with an installed release: files that are missing, changed, or nobody's.

    The release names the lists of files, these name each file's content.
    """
    one = _read(folder)
    site = _site(folder)
    problems, recorded = [], set()
    for record in sorted(site.glob("*.dist-info/RECORD")):
        for name, digest in _rows(record):
            recorded.add(name)
            problem = _wrong(site, name, digest)
            problems += [problem] if problem else []
    for path in sorted(site.rglob("*")):
        name = path.relative_to(site).as_posix()
        if path.is_file() and name not in recorded and path.suffix != ".pyc":
            problems.append(f"{name} is in no distribution of the release")
    settings = (folder / "pyvenv.cfg").read_text() if (folder / "pyvenv.cfg").is_file() else ""
    if "include-system-site-packages = false" not in settings:
        problems.append("pyvenv.cfg lets other software in")
    if not problems and (found := _identity(folder, one.own)) != one.release:
        problems.append(f"it has become {short(found)}")
    return problems


# --- the lock file and the wheelhouse


def _pins(lock: Path) -> tuple[dict[str, str], set[str]]:
    """Return the pinned versions by plain name, and all hashes, of a lock file."""
    try:
        text = lock.read_text()
    except OSError as error:
        raise UsageError(f"the lock file {lock} cannot be read: {error.strerror}") from error
    pinned = {plain(name): version for name, version in _PINNED.findall(text)}
    if not pinned:
        raise UsageError(f"{lock} pins nothing", hint="its lines read name==version --hash=sha256:…")
    return pinned, set(_HASH.findall(text))


def _chosen(wheelhouse: Path, pinned: Mapping[str, str], known: Iterable[str]) -> list[Path]:
    """Return the wheels that make up the release; other versions of what is pinned are passed over."""
    chosen, hashes = [], set(known)
    for path in sorted(wheelhouse.glob("*.whl")):
        match = _WHEEL.fullmatch(path.name)
        if match is None:
            hint = "name-version-python-abi-platform.whl"
            raise ReleaseError(f"{path} is not named as wheels are", hint=hint)
        version = pinned.get(plain(match[1]))
        if version is None or _sha256(path) in hashes:
            chosen.append(path)
        elif version == match[2]:
            message = f"the wheel {path.name} is not one that the lock file pins: its sha256 differs"
            raise ReleaseError(message, hint="fetch it again: pip download --require-hashes -r LOCK")
    return chosen


def _name(wheel: Path) -> str:
    return plain(wheel.name.partition("-")[0])


def _check_parts(environment: Path, experiment: str, own: tuple[str, ...]) -> None:
    """The release's identity is the one that workers find: that of the experiment's distributions."""
    parts = {plain(name) for name in json.loads(_ask(environment, _PARTS, experiment))} | {OWN}
    if parts != set(own):
        odd = sorted(parts ^ set(own))
        raise ReleaseError(
            f"{', '.join(odd)}: the wheels outside the lock file are not the distributions of {experiment}",
            hint=f"put these and no others beside what is pinned: {', '.join(sorted(parts))}",
        )


# --- environments


def _populate(environment: Path, source: Path, compiled: bool = False) -> None:
    """Make an environment and install a made release in it; nothing is fetched."""
    venv.EnvBuilder(symlinks=True).create(environment)
    for path in (environment / "bin").iterdir():  # their first lines name a folder that will have moved
        if not path.name.startswith("python"):
            path.unlink()
    settings = (environment / "pyvenv.cfg").read_text().splitlines()
    kept = [line for line in settings if not line.startswith("command")]
    (environment / "pyvenv.cfg").write_text("\n".join(kept) + "\n")
    pip = [sys.executable, "-m", "pip", "--python", str(interpreter(environment)), "--isolated", "install"]
    options = ["--no-index", "--require-hashes", "--no-cache-dir", "--quiet", "--disable-pip-version-check"]
    options += ["--no-warn-script-location", *(() if compiled else ("--no-compile",))]
    what = ["--find-links", WHEELS, "-r", LOCK, "-r", REQUIREMENTS]
    done = subprocess.run([*pip, *options, *what], cwd=source, capture_output=True, text=True, check=False)
    if done.returncode:
        complaint = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or [done.stderr]
        raise ReleaseError(
            f"the wheels cannot be installed: {complaint[-1].removeprefix('ERROR: ').strip()[:300]}",
            hint="the wheelhouse needs all that the lock file pins: pip download --require-hashes -r LOCK",
        )
    for path in (environment / "bin").iterdir():
        if not path.name.startswith("python"):
            path.unlink()


def _identity(environment: Path, own: Iterable[str]) -> str:
    return _ask(environment, _IDENTITY, *own).strip()


def _ask(environment: Path, code: str, *arguments: str, text: str = "") -> str:
    """Run code in an installed release and return what it writes.

    Raises: ReleaseError.
    """
    argv = [str(interpreter(environment)), "-I", "-c", code, *arguments]
    done = subprocess.run(argv, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise ReleaseError(f"the release cannot be used: {last[:300]}", hint="are all of its wheels there?")
    return done.stdout


def _site(environment: Path) -> Path:
    found = sorted(environment.glob("lib/python*/site-packages"))
    if not found:
        raise ReleaseError(f"{environment} is no installed release", hint="install it again")
    return found[0]


def _rows(record: Path) -> Iterator[tuple[str, str]]:
    """Return name and sha256 of the files that a distribution brought; scripts are not kept."""
    for row in csv.reader(record.read_text().splitlines()):
        if row and not row[0].startswith(("..", "/")) and not row[0].endswith(".pyc"):
            digest = row[1].removeprefix("sha256=")
            yield row[0], base64.urlsafe_b64decode(digest + "=" * (-len(digest) % 4)).hex()


def _wrong(root: Path, name: str, digest: str) -> str:
    path = root / name
    if not path.is_file():
        return f"{name} is missing"
    return f"{name} was changed" if digest and _sha256(path) != digest else ""


# --- folders that are there whole or not at all


@contextmanager
def _building(root: Path) -> Iterator[Path]:
    """Give a new folder that becomes something or goes; what an earlier process left is removed."""
    durable.make_directory(root)
    lock = durable.FileLock(root / "lock", str(os.getpid()))
    lock.acquire(patience=600)
    try:
        for left in root.glob(".partial-*"):
            shutil.rmtree(left)
        partial = root / f".partial-{secrets.token_hex(4)}"
        partial.mkdir()
        yield partial
    finally:
        for left in root.glob(".partial-*"):
            shutil.rmtree(left, ignore_errors=True)
        lock.release()


def _appear(partial: Path, final: Path) -> None:
    """Sync a tree and give it its name; one of that name is the same thing."""
    if (final / MANIFEST).is_file():
        return
    for folder, _, names in os.walk(partial, topdown=False):
        for name in names:
            path = Path(folder) / name
            if not path.is_symlink():
                _fsync(path)
        durable.fsync_directory(Path(folder))
    partial.rename(final)
    durable.fsync_directory(final.parent)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read(folder: Path) -> Made:
    try:
        document: dict[str, Any] = json.loads((folder / MANIFEST).read_bytes())
        return Made(**document | {"own": tuple(document["own"])})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ReleaseError(f"{folder} holds no release: {error}", hint="make or install it again") from error


def _copied(source: Path, target: Path) -> str:
    shutil.copyfile(source, target)
    return _sha256(target)


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _python() -> str:
    return ".".join(str(part) for part in sys.version_info[:3])
