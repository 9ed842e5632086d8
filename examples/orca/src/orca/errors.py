"""What can be wrong with the files of a neutrino telescope."""

from __future__ import annotations

from pathlib import Path


class RawDataError(ValueError):
    """A raw or reconstructed file cannot be used: it is truncated, of another kind or inconsistent."""

    def __init__(self, path: Path | str, cause: str, hint: str) -> None:
        super().__init__(f"{path}: {cause}. {hint}")


class DetectorFileError(ValueError):
    """A detector file is malformed; the message names the file and the line or byte."""

    def __init__(self, path: Path | str, where: str, cause: str, hint: str = "") -> None:
        super().__init__(f"{path}, {where}: {cause}. {hint}".rstrip())
