"""Write the generated pages of the reference out of the code; with ``--check``, only compare them.

A test runs the comparison, so that a command, an error or a state cannot change without its page.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from beamwright.core import errors, states

REFERENCE = Path(__file__).parent / "reference"
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
    context = click.Context(
        command, info_name=name, parent=parent, terminal_width=WIDTH, max_content_width=WIDTH
    )
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
    rows += [
        "",
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


PAGES: dict[str, Callable[[], str]] = {
    "cli.md": cli_page,
    "errors.md": errors_page,
    "states.md": states_page,
}


def page(name: str) -> str:
    """Return what the page called ``name`` should hold."""
    return NOTE + PAGES[name]()


def stale() -> list[str]:
    """Return the pages that are not what the code says."""
    return [name for name in PAGES if _present(name) != page(name)]


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
