"""One tree of errors: each carries a code, an HTTP status, an exit code and a hint.

The message names the object and the cause; the hint names the next step. Errors about a name suggest the
nearest valid one.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, ClassVar


class BeamwrightError(Exception):
    """Any failure that beamwright explains to its user."""

    code: ClassVar[str] = "error"
    http_status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "", **data: Any) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.data = data

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message

    def document(self) -> dict[str, Any]:
        """Return the error as a JSON-ready document."""
        return {"error": self.code, "message": self.message, "hint": self.hint, "data": self.data}


LISTED = 12


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return a hint that suggests the valid names nearest to ``name``, or lists the first of them."""
    names = sorted(set(valid))
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(close)}?"
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return f"valid names: {', '.join(names[:LISTED])}{more}" if names else "there are none yet"


class UsageError(BeamwrightError):
    """The command or call was put wrongly."""

    code, http_status, exit_code = "usage", 400, 2


class ConfigError(UsageError):
    """A declaration (workspace, site, farm, production, bank) is not valid."""

    code = "config"


class UnknownNameError(UsageError, KeyError):
    """A name is not known; the hint suggests the nearest one, where the valid ones can be listed."""

    code, http_status = "unknown-name", 404

    def __init__(self, kind: str, name: str, valid: Iterable[str] | None = None, **data: Any) -> None:
        hint = "check how it is written" if valid is None else nearest(name, valid)
        super().__init__(f"no {kind} is called {name!r}", hint=hint, **data)


class ConflictError(BeamwrightError):
    """The object exists already, with other content, or is in use."""

    code, http_status, exit_code = "conflict", 409, 3


class WorkspaceBusyError(ConflictError):
    """Another process works in this workspace."""

    code = "workspace-busy"


class StateError(ConflictError):
    """The object is not in a state that allows this."""

    code = "state"


class FormatError(BeamwrightError, ValueError):
    """A file or document does not have the form it should have."""

    code, http_status, exit_code = "format", 422, 4


class ChecksumError(FormatError):
    """Bytes are not what their checksum says."""

    code = "checksum"


class SchemaMismatchError(FormatError):
    """Two schemas that must agree do not."""

    code = "schema-mismatch"


class ValidationError(FormatError):
    """An output failed its validation."""

    code = "validation"


class ModuleError(BeamwrightError):
    """A module broke its contract or raised."""

    code, exit_code = "module", 5


class ConditionsError(BeamwrightError):
    """Conditions are missing, malformed or do not cover what is asked."""

    code, http_status, exit_code = "conditions", 422, 6


class NotCoveredError(ConditionsError):
    """No version of the tag covers the interval."""

    code = "not-covered"


class ReleaseError(BeamwrightError):
    """The software that runs is not the release that was asked for."""

    code, exit_code = "release", 7


class ReportError(BeamwrightError):
    """A job report is not acceptable (signature, lease, ledger, content)."""

    code, http_status, exit_code = "report", 422, 8


class LedgerError(ReportError):
    """Events do not balance: read is not written + filtered + prescaled + quarantined."""

    code = "ledger"


class StorageError(BeamwrightError, OSError):
    """Storage refused: full, read-only, lost."""

    code, http_status, exit_code = "storage", 507, 9


class SchedulerError(BeamwrightError):
    """A batch system did not take or answer a request."""

    code, http_status, exit_code = "scheduler", 502, 10


class SchedulerDownError(SchedulerError):
    """A batch system does not answer, or answers what cannot be understood: nothing is known of its jobs."""

    code = "scheduler-down"


class RemoteError(BeamwrightError):
    """Another site did not answer, or what it answered was cut or changed on the way."""

    code, http_status, exit_code = "remote", 502, 14


class ProductionFailedError(BeamwrightError):
    """A production ended with work that did not succeed."""

    code, exit_code = "production-failed", 11


class IntegrityError(BeamwrightError):
    """A violated invariant was found."""

    code, exit_code = "integrity", 12


class TooSlowError(BeamwrightError):
    """A question took the database longer than it may; the hint says what would make it quicker."""

    code, http_status, exit_code = "too-slow", 503, 13
