"""Every command that a guide prints, or an error recommends, is there, with the options that it is given."""

from __future__ import annotations

import re
import shlex
from itertools import product
from pathlib import Path

import click
import pytest

from beamwright.cli.main import cli

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted({*ROOT.glob("docs/*/*.md"), *ROOT.glob("examples/*/README.md"), ROOT / "README.md"})
SOURCES = sorted(ROOT.glob("src/beamwright/**/*.py"))
IN_PROSE = re.compile(r"`beamwright ([^`]+)`")
IN_BLOCK = re.compile(r"^(?:\$ (?:.* \| )?)?beamwright (.+)$", flags=re.MULTILINE)
BLOCK = re.compile(r"^```(?:console|text|bash|sh)?\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)
# What stands for something else: a name in capitals, what is left out, a redirection, a pipe, a comment.
CUT = re.compile(r"…|\.\.\.| [|>&#] ?| > ")


def _commands(text: str) -> list[str]:
    """Return the commands in a page, without the word beamwright."""
    blocks = [line for block in BLOCK.findall(text) for line in IN_BLOCK.findall(block)]
    return [*IN_PROSE.findall(BLOCK.sub("", text)), *blocks]


def _words(command: str) -> list[str]:
    plain = re.sub(r"\{[^{}]*\}", "X", CUT.split(command)[0])
    try:
        return shlex.split(plain)
    except ValueError:  # the page goes on where the line ends
        return plain.split()


def _wrong(command: str) -> str:
    """Say what is wrong with a command, nothing where it is one; `a|b` stands for both."""
    choices = [word.split("|") if re.fullmatch(r"[a-z|-]+", word) else [word] for word in _words(command)]
    return next((told for words in product(*choices) if (told := _fault(list(words)))), "")


def _fault(words: list[str]) -> str:
    found, context = cli, click.Context(cli)
    while words and isinstance(found, click.Group) and not words[0].startswith("-"):
        inner = found.get_command(context, words[0])
        if inner is None:
            return "" if words[0].isupper() else f"no command {words[0]!r}"
        found, context, words = inner, click.Context(inner, context), words[1:]  # type: ignore[assignment]
    known = {option: parameter for parameter in found.params for option in parameter.opts}
    known |= dict.fromkeys(("--help", "-h"), None)  # type: ignore[arg-type]
    known |= {option: None for parameter in found.params for option in parameter.secondary_opts}  # type: ignore[misc]
    given = [word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)]
    unknown = [option for option in given if option not in known]
    return f"{found.name} has no option {unknown[0]}" if unknown else ""


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_of_a_page_are_there(page: Path) -> None:
    wrong = {command: told for command in _commands(page.read_text()) if (told := _wrong(command))}
    assert wrong == {}


def test_commands_that_are_recommended_are_there() -> None:
    found = [(path, command) for path in SOURCES for command in IN_PROSE.findall(path.read_text())]
    wrong = [(path.name, command, told) for path, command in found if (told := _wrong(command))]
    assert len(found) > 50 and wrong == []


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("run shwo A/1", "no command 'shwo'"),
        ("run show A/1 --jsno", "show has no option --jsno"),
        ("run show A/1 --json | head -3", ""),
        ("conditions put --help", ""),
    ],
)
def test_what_is_not_there_is_found(command: str, told: str) -> None:
    assert _wrong(command) == told
