"""Sandboxes: an analyst's own code, kept under its hash and put over a release on the worker.

``python -m beamwright.production.sandboxes FILE SHA256 MODULE:FUNCTION`` reads parameters from its standard
input and writes what the path says of itself: nobody's code runs in a process that can write the database.
"""

from __future__ import annotations

import importlib
import io
import json
import stat
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from beamwright import durable
from beamwright.core.canonical import sha256_hex
from beamwright.core.errors import ChecksumError, ConfigError, FormatError, UnknownNameError, UsageError
from beamwright.event.banks import BankSet
from beamwright.event.path import Path as EventPath

FOLDER = "sandboxes"
LARGEST = 20_000_000
_EPOCH = (1980, 1, 1, 0, 0, 0)


def pack(folder: Path) -> bytes:
    """Return the files below a folder as one archive; the same files give the same bytes.

    Raises: UsageError when there is none, when they are too large, or when one would hide installed software.
    """
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and not _is_passed_over(folder, path))
    if not any(path.suffix == ".py" for path in paths):
        raise UsageError(f"there is no Python code in {folder}", hint="`code` names its folder")
    size = sum(path.stat().st_size for path in paths)
    if size > LARGEST:
        hint = "keep data out of it: a job reads collections"
        raise UsageError(f"{folder} holds {size / 1e6:.0f} MB, more than {LARGEST / 1e6:.0f}", hint=hint)
    for name in sorted({path.relative_to(folder).parts[0].removesuffix(".py") for path in paths}):
        if name in sys.stdlib_module_names or PathFinder.find_spec(name) is not None:
            raise UsageError(f"{folder} would hide the installed module {name}", hint="give it another name")
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for path in paths:
            archive.writestr(zipfile.ZipInfo(path.relative_to(folder).as_posix(), _EPOCH), path.read_bytes())
    return stream.getvalue()


def keep(root: Path, data: bytes) -> dict[str, str]:
    """Put an archive into a workspace under its hash; return what a job document says of it."""
    digest = sha256_hex(data)
    path = root / FOLDER / f"{digest}.zip"
    durable.make_directory(path.parent)
    durable.put_once(path, data)
    return {"path": str(path), "sha256": digest}


def unpack(file: Path, sha256: str, folder: Path) -> None:
    """Unpack an archive into a new folder, after its content was compared with its hash.

    Raises: ChecksumError, FormatError.
    """
    data = file.read_bytes()
    if sha256_hex(data) != sha256:
        raise ChecksumError(f"the sandbox {file} is not what was kept", hint="start the analysis again")
    folder.mkdir()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for member in archive.infolist():
            if member.file_size > LARGEST or stat.S_ISLNK(member.external_attr >> 16):
                raise FormatError(f"the sandbox {file} holds {member.filename}, which is no plain file")
            target = durable.confined(folder, member.filename)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(archive.read(member))


def load(folder: Path, function: str, parameters: Mapping[str, Mapping[str, Any]]) -> EventPath:
    """Return the path that a function of unpacked code makes; what is installed goes before it.

    Raises: ConfigError, UnknownNameError.
    """
    sys.path.append(str(folder))
    module, _, name = function.partition(":")
    try:
        found = vars(importlib.import_module(module))
    except ImportError as error:
        raise ConfigError(f"the analysis cannot be imported: {error}", hint="is it in `code`?") from error
    if name not in found:
        raise UnknownNameError(f"function of module {module}", name, [n for n in found if n[:1] != "_"])
    path = found[name]()
    if not isinstance(path, EventPath):
        raise ConfigError(f"{function} gives a {type(path).__name__}, no Path", hint="return a Path")
    path.configure(parameters)
    return path


def banks_with(folder: Path, name: str, known: BankSet) -> BankSet:
    """Return the banks of an experiment with those that a file of unpacked code declares.

    Raises: ConfigError when the file is not there or wrong, or has a bank that the experiment has, too.
    """
    if not name:
        return known
    path = durable.confined(folder, name)
    if not path.is_file():
        raise ConfigError(
            f"there is no bank file {name!r} in the code", hint="`banks` names a file in `code`"
        )
    own = BankSet.load(path, closed=False)
    clash = next((bank for bank in own if bank in known), None)
    if clash is not None:
        hint = "an analysis adds banks, and leaves those of the experiment as they are: give it another name"
        raise ConfigError(f"bank file {name} declares {clash!r}, a bank of the experiment", hint=hint)
    return BankSet([*known.values(), *own.values()])


def main(arguments: list[str]) -> int:
    """Write what the path of a sandbox says of itself."""
    file, sha256, function = arguments
    with tempfile.TemporaryDirectory() as folder:
        unpack(Path(file), sha256, Path(folder) / "code")
        path = load(Path(folder) / "code", function, json.loads(sys.stdin.read()))
    streams = [output.stream for output in path.outputs]
    sys.stdout.write(
        json.dumps({"record": path.record, "streams": streams, "reads": list(path.conditions)}) + "\n"
    )
    return 0


def _is_passed_over(folder: Path, path: Path) -> bool:
    parts = path.relative_to(folder).parts
    is_hidden = any(part.startswith(".") or part == "__pycache__" for part in parts)
    return path.is_symlink() or is_hidden or path.suffix == ".pyc"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
