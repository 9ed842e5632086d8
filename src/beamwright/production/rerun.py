"""An attempt's work again, by hand: the same document, in a folder of its own, in its environment."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from beamwright import durable
from beamwright.batch.cluster import environment
from beamwright.batch.script import within
from beamwright.batch.wrapper import POOLS
from beamwright.core.canonical import canonical_json
from beamwright.core.errors import ConflictError, StorageError
from beamwright.core.messages import JOB_FILE, REPORT_FILE
from beamwright.core.settings import Farm


@dataclass(frozen=True)
class Rerun:
    """Commands to run in ``folder`` under ``environment``: the work, then the validation of what it wrote.

    ``reported`` are the outputs that the attempt itself reported: file and sha256 by stream.
    """

    folder: Path
    environment: dict[str, str]
    process: list[str]
    validate: list[str]
    shell: list[str]
    reported: dict[str, tuple[str, str]]

    def compare(self) -> dict[str, str]:
        """Tell of each reported output whether the new one is ``equal``, ``different`` or ``missing``."""
        return {stream: self._compared(*known) for stream, known in sorted(self.reported.items())}

    def _compared(self, name: str, sha256: str) -> str:
        path = durable.confined(self.folder, name)
        if not path.is_file():
            return "missing"
        return "equal" if durable.hash_file(path).sha256 == sha256 else "different"


def prepare(directory: Path, farm: Farm | None, folder: Path) -> Rerun:
    """Write a job document like an attempt's into a new folder; what it writes stays there, counted nowhere.

    Raises: StorageError when the attempt's job directory is gone, ConflictError when the folder is there.
    """
    try:
        job: dict[str, Any] = json.loads((directory / JOB_FILE).read_bytes())
    except FileNotFoundError:
        message = f"the job directory {directory} is gone"
        raise StorageError(message, hint="rerun a later attempt; `beamwright job show` lists them") from None
    if folder.exists():
        raise ConflictError(f"{folder} exists", hint="remove it, or choose another folder with --here")
    durable.make_directory(folder)
    reported = _reported(Path(job["output_directory"]) / REPORT_FILE)
    job |= {"scratch": str(folder), "output_directory": str(folder)}
    durable.put_once(folder / JOB_FILE, canonical_json(job))
    process = [*job["commands"]["process"], "--job", str(folder / JOB_FILE)]
    files = [str(durable.confined(folder, stream["file"])) for stream in job["streams"].values()]
    validate = [*job["commands"]["validate"], "--json", *files]
    setup = farm.setup if farm else ""
    shell = [os.environ.get("SHELL") or "/bin/sh"]
    process, validate, shell = (within(setup, argv) for argv in (process, validate, shell))
    return Rerun(folder, _environment(farm, folder), process, validate, shell, reported)


def _reported(path: Path) -> dict[str, tuple[str, str]]:
    try:
        report = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    return {output["stream"]: (output["file"], output["sha256"]) for output in report["outputs"]}


def _environment(farm: Farm | None, folder: Path) -> dict[str, str]:
    """Return what a job at the farm has, and the name of the terminal for a shell."""
    own: Mapping[str, str] = farm.environment if farm else {}
    return environment(("TERM",)) | dict(own) | dict.fromkeys(POOLS, "1") | {"TMPDIR": str(folder)}
