"""Names: a data identifier is ``scope:name``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from beamwright.core.errors import UsageError

# Beside these, a name has no ".." and no "//".
SCOPE, NAME = r"[a-z0-9][a-z0-9_.-]{0,63}", r"[A-Za-z0-9][A-Za-z0-9_.+=@/-]{0,249}"

_SCOPE, _NAME = re.compile(SCOPE), re.compile(NAME)


@dataclass(frozen=True, order=True, slots=True)
class Did:
    """A data identifier, ``scope:name``."""

    scope: str
    name: str

    def __post_init__(self) -> None:
        if not _SCOPE.fullmatch(self.scope):
            raise UsageError(
                f"{self.scope!r} is no scope",
                hint="lower-case letters, digits, . _ - and at most 64 characters",
            )
        if not _NAME.fullmatch(self.name) or ".." in self.name or "//" in self.name:
            raise UsageError(
                f"{self.name!r} is no name", hint="letters, digits, . _ + = @ / - and at most 250 characters"
            )

    @classmethod
    def parse(cls, text: str, default_scope: str | None = None) -> Did:
        """Read ``scope:name``, or ``name`` where a default scope is given."""
        scope, colon, name = text.partition(":")
        if colon:
            return cls(scope, name)
        if default_scope is None:
            raise UsageError(f"{text!r} has no scope", hint="write scope:name")
        return cls(default_scope, text)

    def __str__(self) -> str:
        return f"{self.scope}:{self.name}"
