"""The small language in which the catalogue is asked: ``tier == 'dst' and run in 5000..5200``.

An expression is compiled to SQLAlchemy expressions over named fields; values are always bound, never pasted.
Operators: ``== != < <= > >=``, ``~`` (a pattern with ``*`` and ``?``), ``in 1..9``, ``in ['a', 'b']``, a flag
by its name, ``not``, ``and``, ``or``, parentheses. Errors name the column at which the expression goes wrong.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from beamwright.core.errors import UsageError, nearest
from beamwright.db import schema

MAX_LENGTH = 4000
MAX_DEPTH = 50

Condition = sa.ColumnElement[bool]
Value = str | int | float | bool

_TOKEN = re.compile(
    r"\s*(?:(?P<number>-?\d{1,18}(?:\.\d+)?(?:[eE][-+]?\d{1,2})?)|(?P<string>'[^'\0]*'|\"[^\"\0]*\")"
    r"|(?P<name>[A-Za-z_][A-Za-z0-9_.]*[A-Za-z0-9_]|[A-Za-z_])|(?P<sign>\.\.|==|!=|<=|>=|<|>|~|\(|\)|\[|\]|,))"
)
_WORDS = frozenset({"and", "or", "not", "in", "true", "false"})
_KINDS: dict[type, str] = {str: "text", int: "a number", bool: "true or false"}
_COMPARISONS = ("==", "!=", "<", "<=", ">", ">=")


@dataclass(frozen=True)
class Field:
    """A name of the language: a column, or with ``last`` the two ends of a range that is met or not."""

    column: sa.ColumnElement[Any]
    last: sa.ColumnElement[Any] | None = None


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    column: int


def compile(text: str, fields: Mapping[str, Field]) -> Condition:
    """Return the condition that an expression states.

    Raises: UsageError, which names the column and the nearest valid name.
    """
    if len(text) > MAX_LENGTH:
        raise UsageError(f"an expression of {len(text)} characters", hint=f"{MAX_LENGTH} are allowed")
    return _Parser(text, fields).parse()


def chosen(
    conn: sa.Connection, table: sa.Table, text: str | None, fields: Mapping[str, Field]
) -> set[int] | None:
    """Return the ids of the rows that meet an expression; None, for all, where there is no expression."""
    if text is None:
        return None
    return set(conn.execute(sa.select(table.c.id).where(compile(text, fields))).scalars())


class _Parser:
    """Recursive descent over the tokens."""

    def __init__(self, text: str, fields: Mapping[str, Field]) -> None:
        self.text = text
        self.fields = fields
        self.tokens = _tokens(text)
        self.position = 0
        self.depth = 0

    def parse(self) -> Condition:
        found = self._any()
        if self._next.kind != "end":
            raise self._wrong(self._next, f"{self._next.text!r} is left over", "join conditions with and, or")
        return found

    @property
    def _next(self) -> _Token:
        return self.tokens[self.position]

    def _take(self, *texts: str) -> _Token | None:
        token = self._next
        if token.kind in ("sign", "word") and token.text in texts:
            self.position += 1
            return token
        return None

    def _expect(self, text: str) -> None:
        if self._take(text) is None:
            raise self._wrong(self._next, f"{text!r} is missing", f"found {self._next.text or 'the end'}")

    def _any(self) -> Condition:
        parts = [self._all()]
        while self._take("or"):
            parts.append(self._all())
        return sa.or_(*parts) if len(parts) > 1 else parts[0]

    def _all(self) -> Condition:
        parts = [self._one()]
        while self._take("and"):
            parts.append(self._one())
        return sa.and_(*parts) if len(parts) > 1 else parts[0]

    def _one(self) -> Condition:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise self._wrong(
                self._next, "the expression is nested too deeply", f"{MAX_DEPTH} levels are allowed"
            )
        try:
            if self._take("not"):
                return sa.not_(self._one())
            if self._take("("):
                found = self._any()
                self._expect(")")
                return found
            return self._condition()
        finally:
            self.depth -= 1

    def _condition(self) -> Condition:
        name = self._next
        field = self._field()
        operator = self._next
        if self._take(*_COMPARISONS):
            return self._compared(field, operator.text, self._value(field))
        if self._take("~"):
            return self._matched(field, operator, self._value(field))
        if self._take("in"):
            return self._among(field)
        if isinstance(field.column.type, sa.Boolean):
            return field.column.is_(True)
        raise self._wrong(
            operator, f"{name.text} has no operator", "write name == value, name in 1..9, name ~ 'a*'"
        )

    def _field(self) -> Field:
        token = self._next
        if token.kind != "name":
            raise self._wrong(
                token, f"a name is missing before {token.text or 'the end'}", _names(self.fields)
            )
        if token.text not in self.fields:
            raise self._wrong(token, f"{token.text!r} is no field", nearest(token.text, self.fields))
        self.position += 1
        return self.fields[token.text]

    def _value(self, field: Field) -> Value:
        token = self._next
        self.position += 1
        value = _value_of(token)
        if value is None:
            self.position -= 1
            raise self._wrong(
                token, f"a value is missing before {token.text or 'the end'}", "text stands in quotes"
            )
        wanted = _type_of(field)
        if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
            kind = _KINDS[wanted[0]]
            raise self._wrong(token, f"{token.text} does not compare with this field", f"it holds {kind}")
        return value

    def _compared(self, field: Field, operator: str, value: Value) -> Condition:
        first, last = field.column, field.column if field.last is None else field.last
        if operator in ("==", "!="):
            same = first == value if field.last is None else sa.and_(first <= value, last >= value)
            return same if operator == "==" else sa.not_(same)
        if operator in ("<", "<="):
            return first < value if operator == "<" else first <= value
        return last > value if operator == ">" else last >= value

    def _matched(self, field: Field, operator: _Token, value: Value) -> Condition:
        if not isinstance(value, str):
            raise self._wrong(operator, "~ compares text", "write name ~ 'a*'")
        pattern = "".join({"*": ".*", "?": "."}.get(c, re.escape(c)) for c in value)
        return field.column.regexp_match(f"^{pattern}$")

    def _among(self, field: Field) -> Condition:
        if self._take("["):
            values = [self._value(field)]
            while self._take(","):
                values.append(self._value(field))
            self._expect("]")
            return sa.or_(*(self._compared(field, "==", value) for value in values))
        low = self._value(field)
        self._expect("..")
        high = self._value(field)
        return sa.and_(self._compared(field, ">=", low), self._compared(field, "<=", high))

    def _wrong(self, token: _Token, message: str, hint: str) -> UsageError:
        return UsageError(f"{self.text!r}, column {token.column}: {message}", hint=hint, column=token.column)


def _tokens(text: str) -> list[_Token]:
    found, position, end = [], 0, len(text.rstrip())
    while position < end:
        match = _TOKEN.match(text, position)
        if match is None or match.lastgroup is None:
            column = position + len(text[position:]) - len(text[position:].lstrip()) + 1
            message = f"{text!r}, column {column}: {text[column - 1]!r} is no part of the language"
            raise UsageError(
                message, hint="quotes around text; == != < <= > >= ~ in, and or not", column=column
            )
        kind, word = match.lastgroup, match[match.lastgroup]
        found.append(_Token("word" if word in _WORDS else kind, word, match.start(kind) + 1))
        position = match.end()
    return [*found, _Token("end", "", end + 1)]


def _value_of(token: _Token) -> Value | None:
    if token.kind == "string":
        return token.text[1:-1]
    if token.kind == "number":
        return int(token.text) if re.fullmatch(r"-?\d+", token.text) else float(token.text)
    return {"true": True, "false": False}.get(token.text) if token.kind == "word" else None


def _type_of(field: Field) -> tuple[type, ...]:
    if isinstance(field.column.type, sa.Boolean):
        return (bool,)
    return (int, float) if isinstance(field.column.type, sa.Integer | sa.Float) else (str,)


def _names(fields: Mapping[str, Field]) -> str:
    return f"fields: {', '.join(sorted(fields))}"


def _plain(table: sa.Table, *names: str) -> dict[str, Field]:
    return {name: Field(table.c[name]) for name in names}


RUNS = {
    "run": Field(schema.run.c.number),
    **_plain(schema.run, "series", "tier", "state", "version", "end_marker", "is_mc", "is_resampled"),
    **_plain(schema.run, "luminosity", "livetime", "created"),
}
COLLECTIONS = {
    "run": Field(schema.collection.c.first_run, schema.collection.c.last_run),
    **_plain(schema.collection, "scope", "name", "tier", "stream", "state", "events", "series", "release"),
    **_plain(
        schema.collection, "config_hash", "global_tag", "resolved_hash", "is_mc", "is_resampled", "created"
    ),
}
FILES = _plain(schema.file, "scope", "name", "kind", "tier", "size", "sha256", "uuid", "created")
