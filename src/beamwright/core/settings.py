"""Declarations as checked values: the base of every TOML document that beamwright reads, and the
workspace's settings.
"""

from __future__ import annotations

import re
import tomllib
from itertools import pairwise
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from beamwright.core.errors import ConfigError, nearest


class Declaration(BaseModel):
    """A part of a declaration: unknown keys are errors, values do not change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


D = TypeVar("D", bound=BaseModel)


def decoded(data: bytes, source: str) -> str:
    """Return the text of a file that a person wrote.

    Raises: ConfigError, with the line of the first byte that is no UTF-8 text.
    """
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        message = f"{source}:{line}: byte {data[error.start]:#04x} is no UTF-8 text"
        raise ConfigError(message, hint="save the file as UTF-8") from error


def parse_toml(text: str, source: str) -> dict[str, Any]:
    """Read TOML.

    Raises: ConfigError, with the source and the line.
    """
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(
            f"{source} is not valid TOML: {error}", hint="correct the line that it names"
        ) from error


def declare(model: type[D], document: Any, source: str) -> D:
    """Check a document against its model.

    Raises: ConfigError, which names each wrong key and the valid one nearest to it.
    """
    try:
        return model.model_validate(document)
    except ValidationError as error:
        problems = [_problem(model, document, dict(e)) for e in error.errors(include_url=False)]
        hints = dict.fromkeys(hint for _, hint in problems if hint)
        raise ConfigError(f"{source}: {'; '.join(p for p, _ in problems)}", hint="; ".join(hints)) from error


# What a value should be, by the kind of mistake; with the limits that pydantic gives.
_WANTED = {
    "greater_than": "more than {gt:g}",
    "greater_than_equal": "{ge:g} or more",
    "less_than": "less than {lt:g}",
    "less_than_equal": "{le:g} or less",
    "finite_number": "a finite number",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a table",
    "model_type": "a table",
    "model_attributes_type": "a table",
    "too_short": "a list of {min_length} or more",
    "too_long": "a list of {max_length} or less",
    "string_too_short": "text that is not empty",
    "string_pattern_mismatch": "text of the form {pattern}",
} | {
    f"{kind}_{how}": what
    for kind, what in (
        ("int", "a whole number"),
        ("float", "a number"),
        ("string", "text"),
        ("bool", "true or false"),
    )
    for how in ("type", "parsing", "from_float")
}


def _problem(model: type[BaseModel], document: Any, error: dict[str, Any]) -> tuple[str, str]:
    """Return what is wrong, by the path of the key, and what would be right."""
    where, context = _path(error["loc"], document), error.get("ctx") or {}
    shown = repr(error["input"])
    told = f"{where} is {shown if len(shown) <= 80 else shown[:60] + '…'}"
    match error["type"]:
        case "extra_forbidden":
            return f"unknown key {where!r}", nearest(str(error["loc"][-1]), _keys(model, error["loc"][:-1]))
        case "missing":
            return f"key {where!r} is missing", "add it; docs/reference says what it takes"
        case "literal_error":
            return told, nearest(str(error["input"]), re.findall(r"'([^']*)'", context["expected"]))
        case "value_error":
            return f"{where}: {context['error']}" if where else str(context["error"]), ""
        case kind if kind in _WANTED:
            return told, f"it is {_WANTED[kind].format(**context)}"
    return f"{told}: {error['msg']}", ""


def _path(location: tuple[Any, ...], document: Any) -> str:
    """Return the keys that lead to a place; a table in a list is called by its name, if it has one."""
    parts = []
    for part in location:
        try:
            document = document[part]
        except (KeyError, IndexError, TypeError):
            document = None
        name = document.get("name") if isinstance(part, int) and isinstance(document, dict) else None
        parts.append(name if isinstance(name, str) else str(part))
    return ".".join(parts)


def _keys(model: Any, location: tuple[Any, ...]) -> list[str]:
    """Return the valid keys of the (nested) model at a location."""
    for part in location:
        if (
            isinstance(part, str)
            and isinstance(model, type)
            and issubclass(model, BaseModel)
            and part in model.model_fields
        ):
            model = _inner(model.model_fields[part].annotation)
    return list(model.model_fields) if isinstance(model, type) and issubclass(model, BaseModel) else []


def _inner(annotation: Any) -> Any:
    """Return the model inside list[...], dict[str, ...] or ... | None."""
    arguments = getattr(annotation, "__args__", ())
    models = [a for a in arguments if isinstance(a, type) and issubclass(a, BaseModel)]
    return models[0] if models else annotation


class Site(Declaration):
    """The laboratory that this workspace stands in."""

    name: str = "local"


class Storage(Declaration):
    """Where the database is: an SQLAlchemy URL; SQLite paths are relative to the workspace."""

    url: str = "sqlite:///beamwright.db"
    drill_days: float = Field(default=30, gt=0)


class Farm(Declaration):
    """A batch queue: ``slots`` jobs at once, each of relative ``power``."""

    scheduler: str = "local"
    slots: int = Field(default=1, ge=1, le=100_000)
    power: float = Field(default=1.0, gt=0)
    queue: str = ""
    options: list[str] = Field(default_factory=list)
    setup: str = ""
    environment: dict[str, str] = Field(default_factory=dict)
    array: int = Field(default=1000, ge=1)
    pack: int = Field(default=1, ge=1, le=1000)
    poll_s: float = Field(default=5, ge=0)
    timeout_s: float = Field(default=30, gt=0)
    installed_only: bool = False
    disk: str = Field(default="", pattern=r"^([A-Za-z][A-Za-z0-9_.-]*)?$")

    @property
    def room(self) -> int:
        """How many jobs it takes at once: each slot has the jobs of a pack, one after the other."""
        return self.slots * self.pack


class Limits(Declaration):
    """What an attempt may use, and how often a unit is tried."""

    wall_s: float = Field(default=3600, gt=0)
    memory_mb: int = Field(default=4000, gt=0)
    event_s: float = Field(default=60, gt=0)
    lease_s: float = Field(default=7200, gt=0)
    heartbeat_s: float = Field(default=30, gt=0)
    tries: int = Field(default=3, ge=1)


class Endpoint(Declaration):
    """A storage: the site that it stands at."""

    site: str = "local"


class Reconcile(Declaration):
    """When storage and catalogue are believed to disagree, and how much one reconciliation may change."""

    apart_s: float = Field(default=86_400, gt=0)
    max_files: int = Field(default=1000, ge=0)
    max_bytes: int = Field(default=1_000_000_000_000, ge=0)
    max_per_cent: float = Field(default=1.0, ge=0, le=100)


class Goals(Declaration):
    """How long after its delivery a run should have the verdict of pass 1, and be done."""

    feedback_h: float = Field(default=2, gt=0)
    full_h: float = Field(default=24, gt=0)


class Analyst(Declaration):
    """What one analyst may have; ``weight`` is relative to other analysts."""

    quota_gb: float | None = Field(default=None, gt=0)
    weight: float = Field(default=1.0, gt=0)


class Analyses(Declaration):
    """What analyses may use beside productions: a quota each, and a share of the slots for all."""

    quota_gb: float = Field(default=100.0, gt=0)
    share: float = Field(default=0.2, gt=0, lt=1)
    scope: dict[str, Analyst] = Field(default_factory=dict)

    def quota_of(self, scope: str) -> float:
        """Return how many GB an analyst's outputs may take."""
        own = self.scope.get(scope)
        return self.quota_gb if own is None or own.quota_gb is None else own.quota_gb

    def weight_of(self, scope: str) -> float:
        """Return an analyst's weight."""
        return self.scope[scope].weight if scope in self.scope else 1.0


class Settings(Declaration):
    """``beamwright.toml``: the workspace."""

    format: Literal[1] = 1
    site: Site = Site()
    database: Storage = Storage()
    limits: Limits = Limits()
    endpoint: dict[str, Endpoint] = Field(default_factory=dict)
    reconcile: Reconcile = Reconcile()
    goals: Goals = Goals()
    analyses: Analyses = Analyses()
    farm: dict[str, Farm] = Field(default_factory=lambda: {"near": Farm(), "far": Farm()})


DEFAULT_SETTINGS = """\
# A beamwright workspace. Every key is described in docs/reference/settings.md.
format = 1

[site]
name = "local"

[database]
url = "sqlite:///beamwright.db"

# Two farms on this machine: jobs of one production run on both.
[farm.near]
scheduler = "local"
slots = 1
power = 1.0

[farm.far]
scheduler = "local"
slots = 1
power = 1.0
"""


def read_settings(text: str, source: str = "beamwright.toml") -> Settings:
    """Read the workspace's settings."""
    return declare(Settings, parse_toml(text, source), source)


def with_database(text: str, url: str) -> str:
    """Return the text of settings with another database, and nothing else changed.

    Raises: ConfigError when the text is written in a way that cannot be changed line by line.
    """
    wanted = read_settings(text).model_dump() | {
        "database": {**read_settings(text).database.model_dump(), "url": url}
    }
    line = f'url = "{url}"'
    lines = text.splitlines()
    heads = [n for n, found in enumerate(lines) if found.strip().startswith("[")] + [len(lines)]
    for start, end in pairwise(heads):
        if lines[start].split("#")[0].strip() == "[database]":
            at = [n for n in range(start + 1, end) if lines[n].split("=")[0].strip() == "url"]
            lines[slice(at[0], at[0] + 1) if at else slice(start + 1, start + 1)] = [line]
            break
    else:
        lines += ["", "[database]", line]
    changed = "\n".join(lines) + "\n"
    if read_settings(changed).model_dump() != wanted:
        raise ConfigError(
            "the key database.url cannot be changed in these settings", hint=f"write {line} there yourself"
        )
    return changed
