"""Write the generated pages of the reference out of the code; with ``--check``, only compare them.

A test runs the comparison, so that a command, an error or a state cannot change without its page.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
import tomllib
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from beamwright.core import errors, messages, states

REFERENCE = Path(__file__).parent / "reference"
KEYS = Path(__file__).parent / "_keys.toml"
NOTE = "<!-- Written by docs/_generate.py; edit the code it describes, then run `make docs`. -->\n\n"
WIDTH = 96


def cli_page() -> str:
    """Return the help of every command, the top one first."""
    from beamwright.cli.main import cli

    parts = [
        "# Commands\n",
        "Data goes to standard output, progress and errors to standard error. `--json` gives one document,",
        "or one JSON document per line for lists. The exit codes are those of the [errors](errors.md).\n",
    ]
    for path, command, context in _commands(cli, "beamwright", None):
        depth = "##" if len(path.split()) < 3 else "###"
        parts += [f"{depth} `{path}`\n", f"```text\n{command.get_help(context).rstrip()}\n```\n"]
    return "\n".join(parts)


def _commands(
    command: click.Command, path: str, parent: click.Context | None
) -> Iterator[tuple[str, click.Command, click.Context]]:
    name = path.rsplit(" ", 1)[-1]
    options: dict[str, Any] = {
        **command.context_settings,
        "terminal_width": WIDTH,
        "max_content_width": WIDTH,
    }
    context = click.Context(command, info_name=name, parent=parent, **options)
    yield path, command, context
    if isinstance(command, click.Group):
        for child_name in command.list_commands(context):
            child = command.get_command(context, child_name)
            if child is not None and not child.hidden:
                yield from _commands(child, f"{path} {child_name}", context)


def errors_page() -> str:
    """Return the tree of errors with what each gives to a caller, a shell and a client."""
    rows = [
        "# Errors\n",
        "Every error that beamwright explains is one of these. Its message names the object and the cause,",
        "its hint the next step. `error` is the stable name in JSON documents; a command ends with the exit",
        "code; a server answers with the HTTP status. An indented class is a case of the one above.\n",
        "| class | `error` | exit code | HTTP | meaning |",
        "|---|---|---:|---:|---|",
    ]
    for depth, cls in error_classes(errors.BeamwrightError):
        name = "&emsp;" * depth + f"`{cls.__name__}`"
        rows.append(f"| {name} | `{cls.code}` | {cls.exit_code} | {cls.http_status} | {_summary(cls)} |")
    rows += ["\n## Failure classes of attempts\n", "| class | meaning |", "|---|---|"]
    rows += [f"| `{name}` | {meaning} |" for name, meaning in messages.FAILURES.items()]
    rows += [
        "\n## Exit codes of commands\n",
        "Exit code 0 is success. Code 130 is an interruption from the keyboard. Any other code comes from a",
        "defect: please report it.",
    ]
    return "\n".join(rows) + "\n"


def error_classes(
    cls: type[errors.BeamwrightError], depth: int = 0
) -> Iterator[tuple[int, type[errors.BeamwrightError]]]:
    """Yield the tree of errors of ``core.errors`` from its root, depth first."""
    yield depth, cls
    for child in sorted(cls.__subclasses__(), key=lambda child: (child.exit_code, child.__name__)):
        if child.__module__ == errors.__name__:
            yield from error_classes(child, depth + 1)


def _summary(cls: type) -> str:
    return (inspect.getdoc(cls) or "").split("\n\n")[0].replace("\n", " ")


def states_page() -> str:
    """Return the transition table of every noun."""
    parts = [
        "# States\n",
        "What each thing can be, and what it can become. A state changes in one place, by an update",
        "that names the state it expects, and the history row is written in the same transaction.\n",
    ]
    for kind, table in states.TABLES.items():
        parts += [f"## {kind.replace('_', ' ')}\n", "| state | can become |", "|---|---|"]
        for state, targets in table.items():
            mark = " (first)" if states.INITIAL.get(kind) == state else ""
            becomes = ", ".join(f"`{target}`" for target in sorted(targets)) or "final"
            parts.append(f"| `{state}`{mark} | {becomes} |")
        parts.append("")
    return "\n".join(parts).rstrip() + "\n"


# Pages written by hand hold tables written by this script: <!-- keys module:Model --> ... <!-- end -->
TABLE = re.compile(r"(<!-- keys (\S+) -->\n).*?(<!-- end -->)", flags=re.DOTALL)
LIMITS = {"Ge": ("≥", "ge"), "Gt": (">", "gt"), "Le": ("≤", "le"), "Lt": ("<", "lt")}


def key_table(model_name: str) -> str:
    """Return the table of a declaration's keys: what the code says beside what ``_keys.toml`` says."""
    module, _, name = model_name.partition(":")
    model = getattr(importlib.import_module(module), name)
    keys = model.model_fields if issubclass(model, BaseModel) else model.__annotations__
    meanings = tomllib.loads(KEYS.read_text(encoding="utf-8")).get(model_name, {})
    if set(meanings) != set(keys):
        differing = sorted(set(meanings) ^ set(keys))
        raise SystemExit(f"docs/_keys.toml and {model_name} differ in {', '.join(differing)}")
    rows = _rows if issubclass(model, BaseModel) else _document_rows
    return "\n".join(rows(keys, meanings)) + "\n"


def _rows(fields: dict[str, FieldInfo], meanings: dict[str, str]) -> Iterator[str]:
    yield from ("| key | type | default | meaning |", "|---|---|---|---|")
    for key, field in fields.items():
        yield f"| `{key}` | {_type(field)} | {_default(field)} | {meanings[key]} |"


def _document_rows(keys: dict[str, Any], meanings: dict[str, str]) -> Iterator[str]:
    yield from ("| member | meaning |", "|---|---|")
    for key in keys:
        yield f"| `{key}` | {meanings[key]} |"


def _type(field: FieldInfo) -> str:
    limits = [
        f"{sign} {getattr(limit, name)}"
        for limit in field.metadata
        for sign, name in [LIMITS.get(type(limit).__name__, ("", ""))]
        if sign
    ]
    return " ".join([_type_name(field.annotation), *limits])


def _type_name(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return " or ".join(f"`{value!r}`".replace("'", '"') for value in arguments)
    if origin is list:
        return f"list of {_plural(arguments[0])}"
    if origin is dict:
        return f"{_plural(arguments[1])} by name"
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_type_name(a) for a in arguments if a is not type(None))
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return "table"
    return {"str": "text", "int": "integer", "float": "number", "bool": "true or false"}.get(
        getattr(annotation, "__name__", ""), "any value"
    )


def _plural(annotation: Any) -> str:
    name = _type_name(annotation)
    return f"{name}s" if name in ("table", "integer", "number") else name


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "**needed**"
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is None or value == "" or isinstance(value, BaseModel | dict | list):
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


PAGES: dict[str, Callable[[], str]] = {
    "cli.md": cli_page,
    "errors.md": errors_page,
    "states.md": states_page,
}


def page(name: str) -> str:
    """Return what the page called ``name`` should hold."""
    if name in PAGES:
        return NOTE + PAGES[name]()
    return TABLE.sub(lambda match: match[1] + key_table(match[2]) + match[3], _present(name))


def stale() -> list[str]:
    """Return the pages that are not what the code says."""
    by_hand = [path.name for path in sorted(REFERENCE.glob("*.md")) if path.name not in PAGES]
    return [name for name in [*PAGES, *by_hand] if _present(name) != page(name)]


def _present(name: str) -> str:
    path = REFERENCE / name
    return path.read_text(encoding="utf-8") if path.exists() else ""


def main(arguments: list[str]) -> int:
    """Write or check the pages; return the exit code."""
    names = stale()
    if "--check" in arguments:
        for name in names:
            print(f"docs/reference/{name} is not what the code says: run `make docs`", file=sys.stderr)
        return 1 if names else 0
    for name in names:
        (REFERENCE / name).write_text(page(name), encoding="utf-8")
        print(f"docs/reference/{name}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
