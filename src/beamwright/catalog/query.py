"""The small language in which the catalogue is asked: ``tier == 'dst' and run in 5000..5200``.

An expression is read into a tree, and that is compiled to SQLAlchemy expressions over named fields; values
are always bound, never pasted. Errors name the column at which the expression goes wrong and the nearest
valid name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles

from beamwright.core.clock import seconds_of
from beamwright.core.errors import FormatError, UsageError, nearest
from beamwright.db.columns import begins

MAX_LENGTH = 4000
MAX_DEPTH = 50

Condition = sa.ColumnElement[bool]
Value = str | int | float | bool

_TOKEN = re.compile(
    r"\s*(?:(?P<number>-?\d{1,18}(?:\.\d+)?(?:[eE][-+]?\d{1,2})?)|(?P<string>'[^'\0]*'|\"[^\"\0]*\")"
    r"|(?P<name>[A-Za-z_][A-Za-z0-9_.]*[A-Za-z0-9_]|[A-Za-z_])|(?P<sign>\.\.|==|!=|<=|>=|=|<|>|~|\(|\)|\[|\]|,))"
)
_WORDS = frozenset({"and", "or", "not", "in", "true", "false"})
_COMPARISONS = ("==", "!=", "<", "<=", ">", ">=")
_HOLDS = {"text": "text", "number": "a number", "flag": "true or false", "time": "a time: '2026-05-01'"}


@dataclass(frozen=True)
class Field:
    """A name of the language: a column, or with ``last`` the two ends of a range that is met or not.

    ``through`` makes a condition on a column of another table one on the rows that are asked for. ``is_time``
    marks seconds since the epoch, which are written as dates; ``is_quick`` what an index finds; ``is_hash`` a
    hash, whose start has the index. ``values`` are all that there can be; ``of`` tells the rows of the column
    that are of this field.
    """

    column: sa.ColumnElement[Any]
    last: sa.ColumnElement[Any] | None = None
    through: Callable[[Condition], Condition] | None = None
    is_time: bool = False
    is_quick: bool = False
    is_hash: bool = False
    values: tuple[str, ...] = ()
    of: Condition | None = None

    @property
    def kind(self) -> str:
        if isinstance(self.column.type, sa.Boolean):
            return "flag"
        if self.is_time:
            return "time"
        return "number" if isinstance(self.column.type, sa.Integer | sa.Float) else "text"

    def is_value(self, value: Any) -> Condition:
        """Return the condition that the field has this value, which Python gives."""
        found: Condition = self.column == value
        return self.through(found) if self.through else found


@dataclass(frozen=True)
class Function:
    """A condition that is called: its parameters by name, the first needed, and what it compiles to.

    ``columns`` are those in which the values of parameters are looked for.
    """

    parameters: tuple[str, ...]
    make: Callable[..., Condition]
    columns: Mapping[str, sa.ColumnElement[Any]] = field(default_factory=dict)

    def named(self, node: Called) -> dict[str, Token]:
        """Return the values of a call by the names of its parameters."""
        return dict(zip(self.parameters, node.values, strict=False)) | {n.text: v for n, v in node.named}


@dataclass(frozen=True)
class Token:
    """A word of an expression and where it stands, counted from 1."""

    kind: str
    text: str
    column: int

    @property
    def value(self) -> Value | None:
        """The value that it writes, None where it writes none."""
        if self.kind == "string":
            return self.text[1:-1]
        if self.kind == "number":
            return int(self.text) if re.fullmatch(r"-?\d+", self.text) else float(self.text)
        return {"true": True, "false": False}.get(self.text) if self.kind == "word" else None


@dataclass(frozen=True)
class Joined:
    """Conditions joined by ``and`` or ``or``."""

    word: str
    parts: tuple[Node, ...]


@dataclass(frozen=True)
class Negated:
    """``not`` a condition."""

    part: Node


@dataclass(frozen=True)
class Compared:
    """A field held against values: by a comparison, ``~``, ``in`` a list, ``..`` a range, or as a flag."""

    name: Token
    operator: Token
    form: str
    values: tuple[Token, ...] = ()


@dataclass(frozen=True)
class Called:
    """A function with its values, by position and by name."""

    name: Token
    values: tuple[Token, ...]
    named: tuple[tuple[Token, Token], ...]


Node = Joined | Negated | Compared | Called


def parse(text: str) -> Node:
    """Read an expression into its tree.

    Raises: UsageError, which names the column.
    """
    if len(text) > MAX_LENGTH:
        raise UsageError(f"an expression of {len(text)} characters", hint=f"{MAX_LENGTH} are allowed")
    return _Parser(text).parse()


def compile(
    text: str, fields: Mapping[str, Field], functions: Mapping[str, Function] | None = None
) -> Condition:
    """Return the condition that an expression states.

    Raises: UsageError, which names the column and the nearest valid name.
    """
    return _Compiler(text, fields, functions or {}).condition(parse(text))


def leaves(node: Node) -> Iterator[Compared | Called]:
    """Yield the single conditions of a tree."""
    if isinstance(node, Joined):
        for part in node.parts:
            yield from leaves(part)
    elif isinstance(node, Negated):
        yield from leaves(node.part)
    else:
        yield node


def names(node: Node) -> Iterator[Token]:
    """Yield the names of fields and functions in a tree."""
    return (leaf.name for leaf in leaves(node))


def is_quick(node: Node, fields: Mapping[str, Field]) -> bool:
    """Tell whether an index leads to what an expression finds."""
    if isinstance(node, Joined):
        some = any if node.word == "and" else all
        return some(is_quick(part, fields) for part in node.parts)
    if not isinstance(node, Compared) or node.name.text not in fields:
        return False
    is_open = node.operator.text == "~" and node.values[0].text[1:2] in "*?"
    return fields[node.name.text].is_quick and node.operator.text != "!=" and not is_open


def completions(text: str, known: Iterable[str]) -> list[str]:
    """Return the text with its last word completed to each known name that begins like it."""
    match = re.search(r"[A-Za-z_][A-Za-z0-9_.]*$", text)
    start = match.start() if match else len(text)
    if text[:start].count("'") % 2 or text[:start].count('"') % 2:
        return []
    return [text[:start] + name for name in sorted(known) if name.startswith(text[start:])]


def wrong(text: str, column: int, message: str, hint: str) -> UsageError:
    """Return the error about a column of an expression, with the excerpt that points at it."""
    start = max(0, column - 60)
    shown = text[start : start + 100].replace("\n", " ").replace("\t", " ")
    excerpt = [shown, " " * (column - 1 - start) + "^"]
    short = text if len(text) <= 200 else f"{text[:200]}…"
    return UsageError(f"{short!r}, column {column}: {message}", hint=hint, column=column, excerpt=excerpt)


class _Predicate:
    """A condition that stands as it is: SQLite's planner does not look into ``… = 1``."""

    def self_group(self, against: Any = None) -> Any:
        return self


class Matches(_Predicate, sa.sql.functions.FunctionElement[bool]):
    """A column whose whole text matches a pattern with ``*`` and ``?``; each database in its own way."""

    inherit_cache = True
    type = sa.Boolean()
    name = "matches"


@compiles(Matches)
def _glob(element: Matches, compiler: Any, **options: Any) -> str:
    column, pattern, _ = element.clauses
    return f"{compiler.process(column, **options)} GLOB {compiler.process(pattern, **options)}"


@compiles(Matches, "postgresql")
def _like(element: Matches, compiler: Any, **options: Any) -> str:
    column, _, pattern = element.clauses
    return f"{compiler.process(column, **options)} LIKE {compiler.process(pattern, **options)}"


class Among(_Predicate, sa.sql.expression.ColumnElement[bool]):
    """A column that is one of those that a query finds, or with ``is_outside`` none of them (or empty).

    For the latter PostgreSQL gets another form: it goes through a long ``NOT IN`` anew for every row. With
    ``by_keys`` it compares keys alone, which indexes hold, before it looks at any row.
    """

    inherit_cache = False
    type = sa.Boolean()

    def __init__(
        self,
        column: sa.ColumnElement[Any],
        found: sa.Select[Any],
        is_outside: bool = False,
        by_keys: bool = False,
    ) -> None:
        self.column, self.found, self.is_outside, self.by_keys = column, found, is_outside, by_keys

    def _negate(self) -> Among:
        return Among(self.column, self.found, not self.is_outside, self.by_keys)

    @property
    def _from_objects(self) -> list[sa.FromClause]:
        return list(self.column._from_objects)


@compiles(Among)
def _in(element: Among, compiler: Any, **options: Any) -> str:
    column, found = element.column, element.found
    outside: sa.ColumnElement[bool] = column.not_in(found)
    if getattr(column, "nullable", False):
        outside = sa.or_(column.is_(None), outside).self_group()
    return str(compiler.process(outside if element.is_outside else column.in_(found), **options))


@compiles(Among, "postgresql")
def _anti_join(element: Among, compiler: Any, **options: Any) -> str:
    if not element.is_outside:
        return _in(element, compiler, **options)
    column, owner = element.column, element.column._from_objects[0]
    if element.by_keys:
        owner = owner.alias()
        column = owner.c[element.column.key or ""]
    found = element.found.where(element.found.selected_columns[0] == column)
    outside: sa.ColumnElement[bool] = ~found.correlate(owner).exists()
    if element.by_keys:
        outside = element.column.in_(sa.select(column).where(outside))
    return str(compiler.process(outside, **options))


def matches(column: sa.ColumnElement[Any], pattern: str) -> Condition:
    """Return the condition that a column's whole text matches a pattern with ``*`` and ``?``."""
    like = {"*": "%", "?": "_", "%": "\\%", "_": "\\_", "\\": "\\\\"}
    globbed = pattern.replace("[", "[[]")
    liked = "".join(like.get(c, c) for c in pattern)
    return Matches(column, sa.literal(globbed), sa.literal(liked))


class _Parser:
    """Recursive descent over the tokens."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = _tokens(text)
        self.position = 0
        self.depth = 0

    def parse(self) -> Node:
        found = self._joined("or")
        if self._next.kind != "end":
            raise self._wrong(self._next, f"{self._next.text!r} is left over", "join conditions with and, or")
        return found

    @property
    def _next(self) -> Token:
        return self.tokens[self.position]

    def _take(self, *texts: str) -> Token | None:
        token = self._next
        if token.kind in ("sign", "word") and token.text in texts:
            self.position += 1
            return token
        return None

    def _expect(self, text: str) -> None:
        if self._take(text) is None:
            raise self._wrong(self._next, f"{text!r} is missing", f"found {self._next.text or 'the end'}")

    def _joined(self, word: str) -> Node:
        read = self._one if word == "and" else lambda: self._joined("and")
        parts = [read()]
        while self._take(word):
            parts.append(read())
        return Joined(word, tuple(parts)) if len(parts) > 1 else parts[0]

    def _one(self) -> Node:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise self._wrong(
                self._next, "the expression is nested too deeply", f"{MAX_DEPTH} levels are allowed"
            )
        try:
            if self._take("not"):
                return Negated(self._one())
            if self._take("("):
                found = self._joined("or")
                self._expect(")")
                return found
            return self._condition()
        finally:
            self.depth -= 1

    def _condition(self) -> Node:
        name = self._next
        if name.kind != "name":
            raise self._wrong(name, f"a name is missing before {name.text or 'the end'}", "")
        self.position += 1
        operator = self._next
        if self._take("("):
            return self._call(name)
        if self._take(*_COMPARISONS):
            return Compared(name, operator, "compare", (self._value(),))
        if self._take("~"):
            return Compared(name, operator, "match", (self._value(),))
        if self._take("in"):
            return self._among(name, operator)
        if self._take("="):
            raise self._wrong(operator, "= compares nothing", f"write {name.text} == value")
        return Compared(name, operator, "flag")

    def _among(self, name: Token, operator: Token) -> Node:
        if self._take("["):
            values = [self._value()]
            while self._take(","):
                values.append(self._value())
            self._expect("]")
            return Compared(name, operator, "list", tuple(values))
        low = self._value()
        self._expect("..")
        return Compared(name, operator, "range", (low, self._value()))

    def _call(self, name: Token) -> Node:
        values: list[Token] = []
        named: list[tuple[Token, Token]] = []
        while self._take(")") is None:
            if values or named:
                self._expect(",")
            token = self._next
            if token.kind == "name":
                self.position += 1
                self._expect("=")
                named.append((token, self._value()))
            else:
                values.append(self._value())
        return Called(name, tuple(values), tuple(named))

    def _value(self) -> Token:
        token = self._next
        if token.value is None:
            if token.kind == "name":
                raise self._wrong(
                    token, f"{token.text} is no value", f"text stands in quotes: '{token.text}'"
                )
            what = f"a value is missing before {token.text or 'the end'}"
            raise self._wrong(token, what, "write a number, or text in quotes")
        self.position += 1
        return token

    def _wrong(self, token: Token, message: str, hint: str) -> UsageError:
        return wrong(self.text, token.column, message, hint)


class _Compiler:
    """Turns a tree into a condition over fields."""

    def __init__(self, text: str, fields: Mapping[str, Field], functions: Mapping[str, Function]) -> None:
        self.text = text
        self.fields = fields
        self.functions = functions

    def condition(self, node: Node) -> Condition:
        if isinstance(node, Joined):
            join = sa.and_ if node.word == "and" else sa.or_
            return join(*(self.condition(part) for part in node.parts))
        if isinstance(node, Negated):
            return self._negated(node.part)
        return self._called(node) if isinstance(node, Called) else self._compared(node)

    def _negated(self, node: Node) -> Condition:
        """Return the opposite, down to the single comparison: a database finds its way through those."""
        if isinstance(node, Joined):
            join = sa.or_ if node.word == "and" else sa.and_
            return join(*(self._negated(part) for part in node.parts))
        return self.condition(node.part) if isinstance(node, Negated) else sa.not_(self.condition(node))

    def _compared(self, node: Compared) -> Condition:
        field = self._field(node.name)
        found = self._inner(node, field)
        if field.is_hash and (starts := _starts(node)):
            found = sa.and_(sa.or_(*(begins(field.column, text) for text in starts)), found)
        return field.through(found) if field.through else found

    def _inner(self, node: Compared, field: Field) -> Condition:
        if node.form == "flag":
            if field.kind != "flag":
                hint = f"write {node.name.text} == value, in 1..9, in ['a', 'b'] or ~ 'a*'"
                raise self._wrong(node.operator, f"{node.name.text} has no operator", hint)
            return field.column.is_(True)
        if node.form == "match":
            pattern = node.values[0].value
            if not isinstance(pattern, str) or field.kind != "text":
                raise self._wrong(node.operator, "~ compares text", "write name ~ 'a*'")
            return matches(field.column, str(pattern))
        values = [self._value(token, field) for token in node.values]
        if node.form == "compare":
            return _compared(field, node.operator.text, values[0])
        if node.form == "list":
            if field.last is None:
                return field.column.in_(values)
            return sa.or_(*(_compared(field, "==", value) for value in values))
        return sa.and_(_compared(field, ">=", values[0]), _compared(field, "<=", values[1]))

    def _field(self, token: Token) -> Field:
        if token.text in self.fields:
            return self.fields[token.text]
        if token.text in self.functions:
            hint = f"write {token.text}({', '.join(self.functions[token.text].parameters)})"
            raise self._wrong(token, f"{token.text} is called with values", hint)
        raise self._wrong(token, f"{token.text!r} is no field", nearest(token.text, self.fields))

    def _value(self, token: Token, field: Field) -> Value:
        value, kind = token.value, field.kind
        if kind == "time":
            return self._moment(token)
        wanted: tuple[type, ...] = {"flag": (bool,), "number": (int, float), "text": (str,)}.get(kind, ())
        if value is None or type(value) not in wanted:
            raise self._wrong(
                token, f"{token.text} does not compare with this field", f"it holds {_HOLDS[kind]}"
            )
        if field.values and value not in field.values:
            raise self._wrong(token, f"it is never {value!r}", nearest(str(value), field.values))
        return value

    def _moment(self, token: Token) -> float:
        value = token.value
        try:
            return seconds_of(value if isinstance(value, str | int | float) else "")
        except FormatError as error:
            raise self._wrong(token, error.message, error.hint) from error

    def _called(self, node: Called) -> Condition:
        if node.name.text not in self.functions:
            hint = nearest(node.name.text, self.functions or self.fields)
            raise self._wrong(node.name, f"{node.name.text!r} is no function", hint)
        parameters = self.functions[node.name.text].parameters
        if len(node.values) > len(parameters):
            raise self._wrong(
                node.values[len(parameters)], "a value too many", f"it takes {', '.join(parameters)}"
            )
        given = dict(zip(parameters, node.values, strict=False))
        for name, value in node.named:
            if name.text not in parameters or name.text in given:
                what = f"{name.text} is no parameter, or given twice"
                raise self._wrong(name, what, nearest(name.text, parameters))
            given[name.text] = value
        if parameters and parameters[0] not in given:
            raise self._wrong(
                node.name, f"{node.name.text} needs a value", f"it takes {', '.join(parameters)}"
            )
        return self._made(node, given)

    def _made(self, node: Called, given: Mapping[str, Token]) -> Condition:
        values: dict[str, Any] = {}
        for name, token in given.items():
            values[name] = token.value
            if name == "as_of":
                values[name] = self._moment(token)
            elif not isinstance(token.value, str):
                raise self._wrong(token, f"{name} is text", "text stands in quotes")
        try:
            return self.functions[node.name.text].make(**values)
        except UsageError as error:
            token = next(iter(given.values()), node.name)
            raise self._wrong(token, error.message, error.hint) from error

    def _wrong(self, token: Token, message: str, hint: str) -> UsageError:
        return wrong(self.text, token.column, message, hint)


def _starts(node: Compared) -> list[str]:
    """Return how the values begin that a comparison finds; nothing where it finds others, too."""
    texts = [str(token.value) for token in node.values]
    if node.form == "match":
        texts = [re.split(r"[*?]", texts[0])[0]]
    is_some = node.form in ("match", "list") or node.operator.text == "=="
    return texts if is_some and all(texts) else []


def _compared(field: Field, operator: str, value: Value) -> Condition:
    first, last = field.column, field.column if field.last is None else field.last
    if operator in ("==", "!="):
        same = first == value if field.last is None else sa.and_(first <= value, last >= value)
        return same if operator == "==" else sa.not_(same)
    if operator in ("<", "<="):
        return first < value if operator == "<" else first <= value
    return last > value if operator == ">" else last >= value


def _tokens(text: str) -> list[Token]:
    found, position, end = [], 0, len(text.rstrip())
    while position < end:
        match = _TOKEN.match(text, position)
        if match is None or match.lastgroup is None:
            column = position + len(text[position:]) - len(text[position:].lstrip()) + 1
            raise _unread(text, column)
        kind, word = match.lastgroup, match[match.lastgroup]
        found.append(Token("word" if word in _WORDS else kind, word, match.start(kind) + 1))
        position = match.end()
    return [*found, Token("end", "", end + 1)]


def _unread(text: str, column: int) -> UsageError:
    """Return the error about a character with which no word of the language begins."""
    found = text[column - 1]
    if found in "'\"":
        return wrong(text, column, "the text that begins here has no end", f"close it with {found}")
    hint = "quotes around text; == != < <= > >= ~ in, and or not"
    return wrong(text, column, f"{found!r} is no part of the language", hint)
