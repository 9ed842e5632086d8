"""Every command line that a page prints is one: its verbs and options are those of the program."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click

from beamwright.cli.main import cli

ROOT = Path(__file__).resolve().parents[3]


def printed() -> Iterator[tuple[str, str]]:
    """Yield (page, command line) of all pages but the generated one."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    for page in pages:
        if page.name == "cli.md" or "_build" in page.parts:
            continue
        text = page.read_text(encoding="utf-8")
        lines = [line for block in re.findall(r"```.*?\n(.*?)```", text, re.S) for line in block.splitlines()]
        found = [
            line.partition("beamwright ")[2]
            for line in lines
            if re.match(r"\s*(\$ )?(\S+ \| )?beamwright ", line)
        ]
        found += re.findall(r"`beamwright ([^`\n]+)`", text)
        yield from ((page.name, re.split(r"  +", line)[0]) for line in found)


def fault(line: str) -> str:
    """Return what is wrong with a command line, or nothing."""
    try:
        words = shlex.split(line, comments=True)
    except ValueError:  # a part of a sentence
        words = line.split()
    command: click.Command = cli
    path = "beamwright"
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        word = words.pop(0)
        if "|" in word:  # several in one breath
            return ""
        found = command.get_command(click.Context(command), word)
        if found is None:
            return f"{path} has no {word}"
        command, path = found, f"{path} {word}"
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    given = {word.strip("[]").partition("=")[0] for word in words if re.match(r"\[?--?[a-z]", word)}
    unknown = given - known - {"--help", "-h", "--version"}
    return f"{path} has no {', '.join(sorted(unknown))}" if unknown else ""


def test_every_command_of_the_pages_exists_with_its_options() -> None:
    lines = list(printed())
    assert len(lines) > 100
    wrong = [f"{page}: `beamwright {line}`: {told}" for page, line in lines if (told := fault(line))]
    assert not wrong, "\n".join(wrong)


def test_a_wrong_command_would_be_found() -> None:
    assert fault("dataset lst") == "beamwright dataset has no lst"
    assert fault("dataset ls --were x") == "beamwright dataset ls has no --were"
    assert fault("dataset ls \"tier == 'dst'\" --explain") == ""
