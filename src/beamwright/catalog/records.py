"""Records of what is to be registered, checked one by one before anything is written."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from beamwright.catalog.metadata import MAX_DOCUMENT, Content, Kind
from beamwright.core.canonical import canonical_json
from beamwright.core.did import Did
from beamwright.core.errors import FormatError, UsageError, nearest
from beamwright.core.runs import EVENT_MAX, SECTION_MAX, Interval

_SHA256, _ADLER32 = re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9a-f]{8}")
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+=-]{0,63}")
_MAX_TEXT = 1000
_BIG = 2**63

Said = tuple[tuple[Kind, Content], ...]


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A file that somebody else made; ``replicas`` are (endpoint, path)."""

    line: int
    did: Did
    size: int
    sha256: str
    adler32: str
    kind: str
    tier: str
    uuid: str | None
    origin: dict[str, Any]
    parents: tuple[str, ...]
    replicas: tuple[tuple[str, str], ...]
    metadata: Said

    @property
    def key(self) -> tuple[str, str]:
        return self.did.scope, self.did.name

    @property
    def identity(self) -> tuple[Any, ...]:
        """What must be equal when the name is."""
        return self.size, self.sha256, self.adler32


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run that another bookkeeping knows."""

    line: int
    series: str
    number: int
    tier: str
    state: str
    expected: dict[str, int] | None
    luminosity: float | None
    livetime: float | None
    is_mc: bool
    is_resampled: bool
    conditions: dict[str, Any]
    metadata: Said

    @property
    def key(self) -> tuple[str, int, str]:
        return self.series, self.number, self.tier

    @property
    def did(self) -> str:
        return f"{self.series}/{self.number} ({self.tier})"

    @property
    def identity(self) -> tuple[Any, ...]:
        return self.luminosity, self.livetime, self.is_mc, self.is_resampled


@dataclass(frozen=True, slots=True)
class CollectionRecord:
    """A collection over registered files, in their order."""

    line: int
    did: Did
    tier: str
    stream: str
    interval: tuple[str, int, int, int, int, int, int]
    events: int
    release: str
    config_hash: str
    global_tag: str
    resolved_hash: str
    is_mc: bool
    is_resampled: bool
    files: tuple[str, ...]
    metadata: Said

    @property
    def key(self) -> tuple[str, str]:
        return self.did.scope, self.did.name

    @property
    def identity(self) -> tuple[Any, ...]:
        return self.tier, self.stream, self.interval, self.events, self.is_mc, self.files


FILE = frozenset(
    {"name", "size", "sha256", "adler32", "kind", "tier", "uuid", "origin", "parents", "replicas", "metadata"}
)
RUN = frozenset(
    {
        "series", "number", "tier", "state", "expected", "luminosity", "livetime", "is_mc", "is_resampled",
        "conditions", "metadata",
    }
)  # fmt: skip
COLLECTION = frozenset(
    {
        "name", "tier", "stream", "series", "first", "last", "events", "release", "config_hash", "global_tag",
        "resolved_hash", "is_mc", "is_resampled", "files", "metadata",
    }
)  # fmt: skip


class Checker:
    """Turns what a stream says into records; every error names the line and the member."""

    def __init__(self, kinds: Mapping[str, Kind], source: str = "") -> None:
        self.kinds = kinds
        self.source = source

    def file(self, line: int, said: Mapping[str, Any]) -> FileRecord:
        """Return a file's record.

        Raises: FormatError.
        """
        owner = self._owner(line, said.get("name"))
        _known(said, FILE, owner)
        adler32 = said.get("adler32", "")
        replicas = said.get("replicas", [])
        uuid = said.get("uuid")
        return FileRecord(
            line,
            _did(said.get("name"), owner),
            _count(said.get("size"), f"{owner}: size"),
            _hex(said.get("sha256"), _SHA256, f"{owner}: sha256"),
            _hex(adler32, _ADLER32, f"{owner}: adler32"),
            _word(said.get("kind", "external"), f"{owner}: kind"),
            _word(said.get("tier"), f"{owner}: tier"),
            None if uuid is None else _word(uuid, f"{owner}: uuid"),
            _table(said.get("origin"), f"{owner}: origin"),
            _names(said["parents"], f"{owner}: parents") if "parents" in said else (),
            tuple(_place(place, owner) for place in _list(replicas, f"{owner}: replicas")),
            self._metadata(said, owner),
        )

    def run(self, line: int, said: Mapping[str, Any]) -> RunRecord:
        """Return a run's record.

        Raises: FormatError.
        """
        owner = self._owner(line, f"{said.get('series')}/{said.get('number')}")
        _known(said, RUN, owner)
        state = said.get("state", "announced")
        if state not in ("announced", "closed", "incomplete"):
            raise FormatError(f"{owner}: state is {state!r}", hint="announced, closed or incomplete")
        expected = _table(said.get("expected"), f"{owner}: expected")
        return RunRecord(
            line,
            _word(said.get("series"), f"{owner}: series"),
            _count(said.get("number"), f"{owner}: number"),
            _word(said.get("tier", "raw"), f"{owner}: tier"),
            state,
            {k: _count(n, f"{owner}: expected {k}") for k, n in expected.items()} or None,
            _amount(said.get("luminosity"), f"{owner}: luminosity"),
            _amount(said.get("livetime"), f"{owner}: livetime"),
            _flag(said.get("is_mc", False), f"{owner}: is_mc"),
            _flag(said.get("is_resampled", False), f"{owner}: is_resampled"),
            _table(said.get("conditions"), f"{owner}: conditions"),
            self._metadata(said, owner),
        )

    def collection(self, line: int, said: Mapping[str, Any]) -> CollectionRecord:
        """Return a collection's record.

        Raises: FormatError.
        """
        owner = self._owner(line, said.get("name"))
        _known(said, COLLECTION, owner)
        files = _names(said.get("files"), f"{owner}: files")
        if not files:
            raise FormatError(f"{owner}: it has no file", hint="a collection is there when all its files are")
        return CollectionRecord(
            line,
            _did(said.get("name"), owner),
            _word(said.get("tier"), f"{owner}: tier"),
            _word(said.get("stream"), f"{owner}: stream"),
            _interval(said, owner),
            _count(said.get("events"), f"{owner}: events"),
            _text(said.get("release", ""), f"{owner}: release"),
            _text(said.get("config_hash", ""), f"{owner}: config_hash"),
            _text(said.get("global_tag", ""), f"{owner}: global_tag"),
            _text(said.get("resolved_hash", ""), f"{owner}: resolved_hash"),
            _flag(said.get("is_mc", False), f"{owner}: is_mc"),
            _flag(said.get("is_resampled", False), f"{owner}: is_resampled"),
            files,
            self._metadata(said, owner),
        )

    def _owner(self, line: int, name: Any) -> str:
        place = f"{self.source}, line {line}" if self.source else f"record {line}"
        return f"{place}, {name[:200]}" if isinstance(name, str) else place

    def _metadata(self, said: Mapping[str, Any], owner: str) -> Said:
        documents = said.get("metadata")
        if documents is None:
            return ()
        if not isinstance(documents, dict):
            hint = 'write {"kind": {"key": value}}'
            raise FormatError(f"{owner}: metadata is no table of kinds", hint=hint)
        found = []
        for name, content in documents.items():
            kind = self.kinds.get(name)
            if kind is None:
                what = f"{owner}: no kind of metadata is called {str(name)[:80]!r}"
                raise FormatError(what, hint=nearest(str(name)[:80], self.kinds))
            found.append((kind, kind.checked(content, owner)))
        return tuple(found)


CHECKS: dict[str, Callable[[Checker, int, Mapping[str, Any]], Any]] = {
    "file": Checker.file,
    "run": Checker.run,
    "collection": Checker.collection,
}


def _known(said: Mapping[str, Any], members: frozenset[str], owner: str) -> None:
    if not members.issuperset(said):
        name = next(name for name in said if name not in members)
        hint = nearest(str(name)[:80], members)
        raise FormatError(f"{owner}: no member is called {str(name)[:80]!r}", hint=hint)


def _did(name: Any, owner: str) -> Did:
    if not isinstance(name, str) or len(name) > 400:
        raise FormatError(f"{owner}: a name is {_shown(name)}", hint="write scope:name")
    try:
        return Did.parse(name)
    except UsageError as error:
        raise FormatError(f"{owner}: {error.message}", hint=error.hint) from error


def _count(value: Any, owner: str) -> int:
    if type(value) is not int or not 0 <= value < _BIG:
        raise FormatError(f"{owner} is {_shown(value)}", hint="it is a whole number, 0 or more")
    return value


def _amount(value: Any, owner: str) -> float | None:
    if value is None:
        return None
    if type(value) not in (int, float) or not 0 <= value < 1e300:
        raise FormatError(f"{owner} is {_shown(value)}", hint="it is a finite number, 0 or more")
    return float(value)


def _flag(value: Any, owner: str) -> bool:
    if type(value) is not bool:
        raise FormatError(f"{owner} is {_shown(value)}", hint="it is true or false")
    return value


def _hex(value: Any, pattern: re.Pattern[str], owner: str) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        digits = 64 if pattern is _SHA256 else 8
        raise FormatError(f"{owner} is {_shown(value)}", hint=f"it is {digits} small hexadecimal digits")
    return value


def _word(value: Any, owner: str) -> str:
    if not isinstance(value, str) or not _WORD.fullmatch(value):
        raise FormatError(f"{owner} is {_shown(value)}", hint="letters, digits, . _ + = - and at most 64")
    return value


def _text(value: Any, owner: str) -> str:
    if not isinstance(value, str) or len(value) > _MAX_TEXT or not value.isprintable():
        raise FormatError(f"{owner} is {_shown(value)}", hint=f"it is text of at most {_MAX_TEXT} characters")
    return value


def _table(value: Any, owner: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise FormatError(f"{owner} is {_shown(value)}", hint="it is a table of names and values")
    try:
        size = len(canonical_json(value))
    except ValueError as error:
        raise FormatError(f"{owner}: {error}", hint="NaN and infinity cannot be kept") from error
    if size > MAX_DOCUMENT:
        raise FormatError(f"{owner} has {size} bytes", hint=f"{MAX_DOCUMENT} bytes are allowed")
    if any("\0" in text for text in _strings(value)):
        raise FormatError(f"{owner} holds a NUL", hint="write Unicode without NUL")
    return value


def _strings(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for pair in value.items() for part in pair for text in _strings(part)]
    if isinstance(value, list):
        return [text for part in value for text in _strings(part)]
    return [value] if isinstance(value, str) else []


def _list(value: Any, owner: str) -> list[Any]:
    if not isinstance(value, list) or len(value) > 10_000:
        raise FormatError(f"{owner} is {_shown(value)}", hint="it is a list of at most 10000")
    return value


def _names(value: Any, owner: str) -> tuple[str, ...]:
    names = [_did(name, owner) for name in _list(value, owner)]
    if len(set(names)) != len(names):
        raise FormatError(f"{owner} names a file twice", hint="name each once")
    return tuple(map(str, names))


def _place(place: Any, owner: str) -> tuple[str, str]:
    if not isinstance(place, dict) or set(place) != {"endpoint", "path"}:
        raise FormatError(f"{owner}: a replica is {_shown(place)}", hint='write {"endpoint": …, "path": …}')
    path = _text(place["path"], f"{owner}: path")
    if not path.strip():
        raise FormatError(f"{owner}: a replica has no path", hint="say where the file lies")
    return _word(place["endpoint"], f"{owner}: endpoint"), path


def _interval(said: Mapping[str, Any], owner: str) -> tuple[str, int, int, int, int, int, int]:
    """Read ``first`` and ``last``: each a run, or [run, section, event] or the first of these."""
    series = _word(said.get("series"), f"{owner}: series")
    ends = []
    for end, rest in (("first", (0, 0, 0)), ("last", (0, SECTION_MAX, EVENT_MAX))):
        value = said.get(end)
        parts = value if isinstance(value, list) and 1 <= len(value) <= 3 else [value]
        counted = [_count(part, f"{owner}: {end}") for part in parts]
        run, section, event = [*counted, *rest[len(counted) :]]
        ends.append((run, section, event))
    found = Interval(series, ends[0], ends[1])
    return (series, *found.first, *found.last)


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else f"{shown[:60]}… ({len(shown)} characters)"
