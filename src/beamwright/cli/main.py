"""The top of the command line: a table of commands, each loaded when it is called."""

from __future__ import annotations

import importlib
import os
import re
import signal
import sys
from collections.abc import Sequence
from typing import Any

import click

from beamwright.cli.common import colours
from beamwright.core.errors import BeamwrightError, StorageError, nearest

# name: (module, attribute, what it does); the last must be the first line of the command's own help.
COMMANDS = {
    "init": ("workspace", "init", "Make a workspace."),
    "up": ("up", "up", "Serve the console of a workspace, read-only, until it is stopped."),
    "demo": ("demo", "demo", "Run an experiment's demo production and report on it."),
    "produce": ("produce", "produce", "Run a production file to its end."),
    "process": ("process", "process", "Run a path over files: the event framework alone."),
    "calibrate": ("calibrate", "calibrate", "Run calibrations over files, alone."),
    "validate": ("files", "validate", "Check output files in full."),
    "merge": ("files", "merge", "Merge output files of one group into one."),
    "top": ("top", "top", "Show tasks and farms as they work: live on a terminal, once elsewhere."),
    "explain": ("explain", "explain", "Say what a thing is, where it came from and what comes next."),
    "lineage": ("lineage", "lineage", "Show what a thing was made from, up to the runs."),
    "impact": ("lineage", "impact", "Show everything that was made from a thing."),
    "fsck": ("fsck", "fsck", "Check the invariants on database and storage, read-only."),
    "report": ("report", "report", "Write the report of a production."),
    "run": ("run", "run", "Runs and their chunks."),
    "dataset": ("dataset", "dataset", "Datasets: sets of collections."),
    "collection": ("collection", "collection", "Collections: sets of events over files."),
    "file": ("file", "file", "Files and what they say of themselves."),
    "event": ("event", "event", "Single events, by their keys."),
    "bank": ("bank", "bank", "Banks: the tables of an event."),
    "module": ("module", "module", "Modules and the paths that they stand in."),
    "task": ("task", "task", "Tasks: steps of a production over their inputs."),
    "job": ("job", "job", "Jobs and their attempts."),
    "metadata": ("metadata", "metadata", "Metadata: typed keys that people declare."),
    "conditions": ("conditions", "conditions", "Conditions: tags, intervals, payloads."),
    "calibration": ("calibration", "calibration", "Chains of rolling calibrations."),
    "quality": ("quality", "quality", "Verdicts on runs."),
    "site": ("site", "site", "The laboratory's farms."),
    "experiment": ("experiment", "experiment", "Experiments that are installed."),
    "production": ("production", "production", "Productions of this workspace."),
    "release": ("release", "release", "The software that runs here."),
    "db": ("db", "db", "The database: upgrade, move, back up, restore, seal."),
}
CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are named; the help needs none of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(f"beamwright.cli.{module}"), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings=CONTEXT)
@click.version_option(package_name="beamwright", message="%(prog)s %(version)s")
def cli() -> None:
    """The whole offline of an experiment: raw runs in; calibrated, reconstructed, accounted data out."""


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; an error is one clear line or, with --json, one document."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        result: Any = cli.main(
            args=list(arguments), prog_name="beamwright", standalone_mode=False, color=colours()
        )
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except BeamwrightError as error:
        return _fail(error, error.exit_code, "--json" in arguments)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return 2
    except click.ClickException as error:
        return _fail(_explained(error), error.exit_code, "--json" in arguments)
    except (click.Abort, KeyboardInterrupt):
        click.echo("\ninterrupted; run the same command again to go on from here", err=True)
        return 130
    except BrokenPipeError:
        # The reader of our output went away; nothing is left to say, also not at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        return _fail(_refused(error), StorageError.exit_code, "--json" in arguments)


def main() -> None:
    """Run the command line."""
    code = run()
    # The end is decided: an interrupt while the interpreter winds up does not change it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(code)


def _refused(error: OSError) -> StorageError:
    """Return what the operating system refused, and of which file."""
    names = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    message = f"{' and '.join(names)}: {error.strerror}" if names else str(error)
    return StorageError(
        message, hint="look at what is there, at its rights and at the space left on its disk"
    )


def _explained(error: click.ClickException) -> BeamwrightError:
    """Return click's complaint in our form: what is wrong, and the nearest thing that is right."""
    from beamwright.core.errors import UsageError

    context = error.ctx if isinstance(error, click.UsageError) else None
    where = f"; `{context.command_path} --help` says what there is" if context else ""
    if isinstance(error, click.NoSuchOption):
        known = [name for p in context.command.params for name in p.opts] if context else []
        near = (
            nearest(error.option_name, known) if known else "options stand behind the last word of a command"
        )
        return UsageError(f"no option is called {error.option_name}", hint=near + where)
    if isinstance(error, click.exceptions.NoSuchCommand):
        group = context.command if context else None
        known = group.list_commands(context) if isinstance(group, click.Group) and context else []
        return UsageError(
            f"no command is called {error.command_name!r}", hint=nearest(error.command_name, known) + where
        )
    return UsageError(error.format_message().rstrip("."), hint=(_choice(error) + where).removeprefix("; "))


def _choice(error: click.ClickException) -> str:
    """Return the valid word that is nearest to one that is no choice."""
    kind = error.param.type if isinstance(error, click.BadParameter) and error.param else None
    wrong = re.match("'(.*)' is not one of", error.message)
    return nearest(wrong[1], map(str, kind.choices)) if wrong and isinstance(kind, click.Choice) else ""


def _fail(error: BeamwrightError, code: int, as_json: bool) -> int:
    if as_json:
        import json

        click.echo(json.dumps(error.document(), default=str), err=True)
        return code
    lines = [f"{click.style('error:', fg='red', bold=True)} {error.message}"]
    lines += [f"  {line}" for line in error.data.get("excerpt", ())]
    lines += [f"  {click.style('next:', bold=True)} {error.hint}"] if error.hint else []
    click.echo("\n".join(lines), err=True, color=colours())
    return code


if __name__ == "__main__":
    main()
