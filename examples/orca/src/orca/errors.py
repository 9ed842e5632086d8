"""What can be wrong with the files of a neutrino telescope."""

from __future__ import annotations

from pathlib import Path

from beamwright.core.errors import FormatError


class RawDataError(FormatError):
    """A raw or reconstructed file cannot be used: it is truncated, of another kind or inconsistent."""

    code = "raw-data"

    def __init__(self, path: Path | str, cause: str, hint: str) -> None:
        super().__init__(f"{path}: {cause}", hint=hint, path=str(path))


class DetectorFileError(FormatError):
    """A detector file is malformed; the message names the file and the line or byte."""

    code = "detector-file"

    def __init__(self, path: Path | str, where: str, cause: str, hint: str = "") -> None:
        super().__init__(f"{path}, {where}: {cause}", hint=hint, path=str(path), where=where)
