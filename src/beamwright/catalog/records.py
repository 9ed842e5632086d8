"""Records of what is to be registered, checked one by one before anything is written."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, NamedTuple

from beamwright.catalog.metadata import MAX_DOCUMENT, Content, Kind
from beamwright.catalog.quick import QuickFiles
from beamwright.catalog.streams import Line
from beamwright.core.canonical import canonical_json
from beamwright.core.did import Did
from beamwright.core.errors import FormatError, UsageError, nearest
from beamwright.core.runs import EVENT_MAX, SECTION_MAX, Interval

_SHA256, _ADLER32 = re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9a-f]{8}")
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+=-]{0,63}")
_MAX_TEXT = 1000
_BIG = 2**63

Said = tuple[tuple[Kind, Content], ...]


class FileRecord(NamedTuple):
    """A file that somebody else made; ``replicas`` are (endpoint, path)."""

    line: int
    scope: str
    name: str
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
        return self.scope, self.name

    @property
    def did(self) -> str:
        return f"{self.scope}:{self.name}"

    @property
    def identity(self) -> tuple[Any, ...]:
        """What must be equal when the name is."""
        return self.size, self.sha256, self.adler32


class RunRecord(NamedTuple):
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


class CollectionRecord(NamedTuple):
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

    def check(self, subject: str, line: int, said: Mapping[str, Any] | Line) -> Any:
        """Return the record of a file, run or collection, given as members or as a line of JSON.

        Raises: FormatError.
        """
        if isinstance(said, Line):
            found = self.quick.read(said.data) if subject == "file" else None
            if found is not None:
                return self._quick_file(line, found)
            said = said.members()
        try:
            return _CHECKS[subject](self, line, said)
        except (FormatError, UsageError) as error:
            raise FormatError(f"{self._owner(line, said)}: {error.message}", hint=error.hint) from error

    @cached_property
    def quick(self) -> QuickFiles:
        """What takes ordinary files' records apart."""
        return QuickFiles(self.kinds)

    def _quick_file(self, line: int, said: dict[str, Any]) -> FileRecord:
        """Return the record of members that are checked already."""
        scope, _, name = said["name"].partition(":")
        get = said.get
        metadata = tuple([(self.kinds[kind], content) for kind, content in get("metadata", {}).items()])
        replicas = get("replicas")
        places = tuple([(place["endpoint"], place["path"]) for place in replicas]) if replicas else ()
        return FileRecord(
            line, scope, name, said["size"], said["sha256"], said["adler32"],
            get("kind", "external"), said["tier"], get("uuid"), {}, (), places, metadata,
        )  # fmt: skip

    def _file(self, line: int, said: Mapping[str, Any]) -> FileRecord:
        _known(said, FILE)
        adler32 = said.get("adler32")
        replicas = said.get("replicas", [])
        uuid = said.get("uuid")
        did = _did(said.get("name"))
        return FileRecord(
            line,
            did.scope,
            did.name,
            _count(said.get("size"), "size"),
            _hex(said.get("sha256"), _SHA256, "sha256"),
            _hex(adler32, _ADLER32, "adler32"),
            _word(said.get("kind", "external"), "kind"),
            _word(said.get("tier"), "tier"),
            None if uuid is None else _word(uuid, "uuid"),
            _table(said.get("origin"), "origin"),
            _names(said["parents"], "parents") if "parents" in said else (),
            tuple(_place(place) for place in _list(replicas, "replicas")) if replicas else (),
            self._metadata(said),
        )

    def _run(self, line: int, said: Mapping[str, Any]) -> RunRecord:
        _known(said, RUN)
        state = said.get("state", "announced")
        if state not in ("announced", "closed", "incomplete"):
            raise FormatError(f"state is {state!r}", hint="announced, closed or incomplete")
        expected = _table(said.get("expected"), "expected")
        return RunRecord(
            line,
            _word(said.get("series"), "series"),
            _count(said.get("number"), "number"),
            _word(said.get("tier", "raw"), "tier"),
            state,
            {k: _count(n, f"expected {k}") for k, n in expected.items()} or None,
            _amount(said.get("luminosity"), "luminosity"),
            _amount(said.get("livetime"), "livetime"),
            _flag(said.get("is_mc", False), "is_mc"),
            _flag(said.get("is_resampled", False), "is_resampled"),
            _table(said.get("conditions"), "conditions"),
            self._metadata(said),
        )

    def _collection(self, line: int, said: Mapping[str, Any]) -> CollectionRecord:
        _known(said, COLLECTION)
        files = _names(said.get("files"), "files")
        if not files:
            raise FormatError("it has no file", hint="a collection is there when all its files are")
        return CollectionRecord(
            line,
            _did(said.get("name")),
            _word(said.get("tier"), "tier"),
            _word(said.get("stream"), "stream"),
            _interval(said),
            _count(said.get("events"), "events"),
            _text(said.get("release", ""), "release"),
            _text(said.get("config_hash", ""), "config_hash"),
            _text(said.get("global_tag", ""), "global_tag"),
            _text(said.get("resolved_hash", ""), "resolved_hash"),
            _flag(said.get("is_mc", False), "is_mc"),
            _flag(said.get("is_resampled", False), "is_resampled"),
            files,
            self._metadata(said),
        )

    def _owner(self, line: int, said: Mapping[str, Any]) -> str:
        place = f"{self.source}, line {line}" if self.source else f"record {line}"
        name = said.get("name")
        if "number" in said:
            name = f"{said.get('series')}/{said['number']}"
        return f"{place}, {name[:200]}" if isinstance(name, str) else place

    def _metadata(self, said: Mapping[str, Any]) -> Said:
        documents = said.get("metadata")
        if documents is None:
            return ()
        if not isinstance(documents, dict):
            hint = 'write {"kind": {"key": value}}'
            raise FormatError("metadata is no table of kinds", hint=hint)
        found = []
        for name, content in documents.items():
            kind = self.kinds.get(name)
            if kind is None:
                what = f"no kind of metadata is called {str(name)[:80]!r}"
                raise FormatError(what, hint=nearest(str(name)[:80], self.kinds))
            found.append((kind, kind.checked(content)))
        return tuple(found)


_CHECKS: dict[str, Callable[[Checker, int, Mapping[str, Any]], Any]] = {
    "file": Checker._file,
    "run": Checker._run,
    "collection": Checker._collection,
}


def _known(said: Mapping[str, Any], members: frozenset[str]) -> None:
    if not members.issuperset(said):
        name = next(name for name in said if name not in members)
        hint = nearest(str(name)[:80], members)
        raise FormatError(f"no member is called {str(name)[:80]!r}", hint=hint)


def _did(name: Any) -> Did:
    if not isinstance(name, str) or len(name) > 400:
        raise FormatError(f"a name is {_shown(name)}", hint="write scope:name")
    try:
        return Did.parse(name)
    except UsageError as error:
        raise FormatError(error.message, hint=error.hint) from error


def _count(value: Any, member: str) -> int:
    if type(value) is not int or not 0 <= value < _BIG:
        raise FormatError(f"{member} is {_shown(value)}", hint="it is a whole number, 0 or more")
    return value


def _amount(value: Any, member: str) -> float | None:
    if value is None:
        return None
    if type(value) not in (int, float) or not 0 <= value < 1e300:
        raise FormatError(f"{member} is {_shown(value)}", hint="it is a finite number, 0 or more")
    return float(value)


def _flag(value: Any, member: str) -> bool:
    if type(value) is not bool:
        raise FormatError(f"{member} is {_shown(value)}", hint="it is true or false")
    return value


def _hex(value: Any, pattern: re.Pattern[str], member: str) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        digits = 64 if pattern is _SHA256 else 8
        raise FormatError(f"{member} is {_shown(value)}", hint=f"it is {digits} small hexadecimal digits")
    return value


def _word(value: Any, member: str) -> str:
    if not isinstance(value, str) or not _WORD.fullmatch(value):
        raise FormatError(f"{member} is {_shown(value)}", hint="letters, digits, . _ + = - and at most 64")
    return value


def _text(value: Any, member: str) -> str:
    if not isinstance(value, str) or len(value) > _MAX_TEXT or not value.isprintable():
        raise FormatError(
            f"{member} is {_shown(value)}", hint=f"it is text of at most {_MAX_TEXT} characters"
        )
    return value


def _table(value: Any, member: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise FormatError(f"{member} is {_shown(value)}", hint="it is a table of names and values")
    try:
        size = len(canonical_json(value))
    except ValueError as error:
        raise FormatError(f"{member}: {error}", hint="NaN and infinity cannot be kept") from error
    if size > MAX_DOCUMENT:
        raise FormatError(f"{member} has {size} bytes", hint=f"{MAX_DOCUMENT} bytes are allowed")
    if any("\0" in text for text in _strings(value)):
        raise FormatError(f"{member} holds a NUL", hint="write Unicode without NUL")
    return value


def _strings(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for pair in value.items() for part in pair for text in _strings(part)]
    if isinstance(value, list):
        return [text for part in value for text in _strings(part)]
    return [value] if isinstance(value, str) else []


def _list(value: Any, member: str) -> list[Any]:
    if not isinstance(value, list) or len(value) > 10_000:
        raise FormatError(f"{member} is {_shown(value)}", hint="it is a list of at most 10000")
    return value


def _names(value: Any, member: str) -> tuple[str, ...]:
    names = [_did(name) for name in _list(value, member)]
    if len(set(names)) != len(names):
        raise FormatError(f"{member} names a file twice", hint="name each once")
    return tuple(map(str, names))


def _place(place: Any) -> tuple[str, str]:
    if not isinstance(place, dict) or set(place) != {"endpoint", "path"}:
        raise FormatError(f"a replica is {_shown(place)}", hint='write {"endpoint": …, "path": …}')
    path = _text(place["path"], "path")
    if not path.strip():
        raise FormatError("a replica has no path", hint="say where the file lies")
    return _word(place["endpoint"], "endpoint"), path


def _interval(said: Mapping[str, Any]) -> tuple[str, int, int, int, int, int, int]:
    """Read ``first`` and ``last``: each a run, or [run, section, event] or the first of these."""
    series = _word(said.get("series"), "series")
    ends = []
    for end, rest in (("first", (0, 0, 0)), ("last", (0, SECTION_MAX, EVENT_MAX))):
        value = said.get(end)
        parts = value if isinstance(value, list) and 1 <= len(value) <= 3 else [value]
        counted = [_count(part, end) for part in parts]
        run, section, event = [*counted, *rest[len(counted) :]]
        ends.append((run, section, event))
    found = Interval(series, ends[0], ends[1])
    return (series, *found.first, *found.last)


def _shown(value: Any) -> str:
    shown = "missing" if value is None else repr(value)
    return shown if len(shown) <= 80 else f"{shown[:60]}… ({len(shown)} characters)"
