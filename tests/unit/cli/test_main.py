"""The command line as a whole: help without imports, errors that help, exit codes, JSON."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import click
import pytest

from beamwright.cli.common import turns
from beamwright.cli.main import COMMANDS, cli
from beamwright.production.workspace import Workspace

HEAVY = ("numpy", "sqlalchemy", "rich", "uproot", "awkward", "pydantic", "matplotlib", "scipy")


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys; from beamwright.cli.main import run; run(['--help']);"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert all(name in done.stdout for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_table_of_commands_says_what_each_command_says(name: str) -> None:
    module, attribute, text = COMMANDS[name]
    command = getattr(importlib.import_module(f"beamwright.cli.{module}"), attribute)
    assert command.name == name
    assert (command.help or "").partition("\n")[0] == text


def leaves(group: click.Group, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    found = []
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        found += (
            leaves(command, (*path, name)) if isinstance(command, click.Group) else [((*path, name), command)]
        )
    return found


@pytest.mark.parametrize(
    ("path", "command"), leaves(cli), ids=lambda value: " ".join(value) if isinstance(value, tuple) else ""
)
def test_every_command_has_help_and_json(path: tuple[str, ...], command: click.Command) -> None:
    options = {name for parameter in command.params for name in parameter.opts}
    assert command.help
    assert all(parameter.help for parameter in command.params if isinstance(parameter, click.Option))
    assert "--json" in options


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["producee"], "did you mean produce"),
        (["run", "sow"], "did you mean show"),
        (["run", "ls", "--seires", "A"], "did you mean --series"),
        (["explain"], "`beamwright explain --help`"),
        (["run", "--workspace", "x", "ls"], "options stand behind"),
        (["quality", "set", "A/1", "x", "goood", "--reason", "y"], "did you mean good?"),
    ],
)
def test_misspelt_command_or_option_suggests_the_nearest(call, arguments: list[str], said: str) -> None:
    result = call(*arguments)
    assert result.code == 2
    assert result.out == ""
    assert result.err.startswith("error: ")
    assert said in result.err


def test_help_of_a_noun_lists_whole_sentences(call) -> None:
    shown = " ".join(call("conditions", "--help").out.split())
    listed = shown.partition("Commands:")[2]
    assert "..." not in listed and "give different constants." in listed


def test_error_with_json_is_one_document_on_standard_error(call, workspace: Workspace) -> None:
    result = call("explain", "sampel", "--json")
    assert result.code == 2
    assert json.loads(result.err)["error"] == "unknown-name"
    assert "sample" in json.loads(result.err)["hint"]


def test_without_a_workspace_the_error_says_how_to_make_one(call, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = call("run", "ls")
    assert result.code == 2
    assert "beamwright init" in result.err


def test_workspace_is_found_upwards_and_by_option(
    call, workspace: Workspace, monkeypatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(workspace.root / "farms")
    assert len(call("run", "ls", "--json").rows) == 3
    monkeypatch.chdir(tmp_path)
    assert len(call("run", "ls", "--json", "-w", workspace.root).rows) == 3


def test_what_the_operating_system_refuses_is_one_clear_line(call, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = call("init", tmp_path / "file" / "new")
    assert result.code != 0 and "Traceback" not in result.err
    assert result.err.startswith("error: ") and "Not a directory" in result.err and "next:" in result.err


def test_init_makes_a_workspace_once(call, tmp_path: Path) -> None:
    folder = tmp_path / "new"
    assert call("init", folder, "--dry-run").code == 0
    assert not folder.exists()
    assert call("init", folder, "--json").document["workspace"] == str(folder)
    again = call("init", folder)
    assert again.code == 3
    assert "is a workspace already" in again.err


def test_output_into_a_closed_pipe_ends_quietly(workspace: Workspace) -> None:
    command = f"{sys.executable} -m beamwright.cli.main job ls --json | true"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("where", ["work", "rest"])
def test_an_interrupt_ends_a_periodic_command_also_where_something_took_it(where: str) -> None:
    before = signal.getsignal(signal.SIGINT)
    seen: list[str] = []

    def act(now: str) -> None:
        seen.append(now)
        if now == where and len(seen) > 2:
            with suppress(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)

    def go() -> None:
        for _ in turns(0.1, lambda _: act("rest")):
            act("work")

    with pytest.raises(KeyboardInterrupt):
        go()
    assert seen == ["work", "rest", "work", "rest"][: 3 if where == "work" else 4]
    assert signal.getsignal(signal.SIGINT) is before
