"""``beamwright calibrate``: calibrations on files, alone, as a production runs them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from beamwright.cli.common import json_option, say, write_document
from beamwright.cli.process import EVENTS, EVENTS_HELP
from beamwright.core.errors import UsageError, nearest

if TYPE_CHECKING:
    from beamwright.conditions.snapshot import Snapshot
    from beamwright.event.calibration import Calibration, Fitted

FILE = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.argument("steering", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "-i", "--input", "inputs", multiple=True, metavar="[ROLE=]FILE", help="An input file; may be repeated."
)
@click.option("-o", "--output", type=FILE, help="Where the constants go, as a snapshot of conditions.")
@click.option("--conditions", type=FILE, help="A snapshot of conditions for what is not calibrated here.")
@click.option("--rounds", type=click.IntRange(1), default=1, help="Repeat so often at most [default: 1].")
@click.option(
    "--tolerance",
    type=float,
    default=0.0,
    help="Stop when no constant moves by more, in its own unit [default: 0].",
)
@click.option("--workers", type=click.IntRange(1), default=1, help="Processes that collect [default: 1].")
@click.option("--events", type=EVENTS, metavar="A:B", help=EVENTS_HELP)
@click.option("--series", default="", help="The series of raw files, for readers that need it.")
@click.option("--run", type=int, default=0, help="The run of raw files, for readers that need it.")
@json_option
def calibrate(
    steering: Path, inputs: tuple[str, ...], output: Path | None, conditions: Path | None, rounds: int,
    tolerance: float, workers: int, events: tuple[int, int | None] | None, series: str, run: int,
    as_json: bool,
) -> int:  # fmt: skip
    """Run calibrations over files, alone.

    STEERING is a Python file that defines `calibrations` (a list of Calibration objects, or a function that
    returns one), `constants` (the payloads to start from, by tag), and `banks` and `reader` where the inputs
    are not files that beamwright wrote. With --rounds they are repeated until no constant moves; not to
    converge is exit code 1.
    """
    from beamwright.cli.process import named, one_thread_each
    from beamwright.cli.steering import Request, blamed, open_source, run_file
    from beamwright.event.rolling import roll

    one_thread_each()
    defined = run_file(steering)
    calibrations = _calibrations(steering, defined)
    request = Request(steering, named(inputs), [], workers, events, series, run, conditions)
    source = open_source(request, defined, calibrations[0].record)
    initial = _initial(steering, defined, calibrations, source.snapshot)
    with blamed(steering):
        found = roll(calibrations, source, initial, most=rounds, tolerance=tolerance, tell=_tell)
    if output is not None:
        _write(output, found.constants, source.interval)
    document = {
        "converged": found.is_converged,
        "rounds": len(found.rounds),
        "shift": found.shift if found.shift != float("inf") else None,
        "fits": {name: fitted.document() for name, fitted in found.rounds[-1].items()},
        "constants": {tag: payload.id for tag, payload in sorted(found.constants.items())},
    }
    write_document(document, as_json)
    return 0 if rounds == 1 or found.is_converged else 1


def _calibrations(steering: Path, defined: dict[str, Any]) -> list[Calibration]:
    from beamwright.event.calibration import Calibration

    found = defined.get("calibrations")
    listed = found() if callable(found) else found
    if not isinstance(listed, list) or not listed or not all(isinstance(c, Calibration) for c in listed):
        close = nearest("calibrations", [name for name in defined if not name.startswith("_")])
        raise UsageError(f"{steering} defines no `calibrations`", hint=f"define a list of them; {close}")
    return listed


def _initial(
    steering: Path, defined: dict[str, Any], calibrations: list[Calibration], snapshot: Snapshot | None
) -> dict[str, Any]:
    """Return the constants to start from; what neither they nor the snapshot have is missing."""
    given = defined.get("constants") or {}
    known = {*given, *(snapshot.roles if snapshot else ())}
    missing = sorted({tag for one in calibrations for tag in one.tags if tag not in known})
    if missing:
        hint = f"give `constants` a payload for each tag; it has: {', '.join(given) or 'none'}"
        raise UsageError(f"{steering} has no constants of {', '.join(missing)} to start from", hint=hint)
    return dict(given)


def _tell(number: int, name: str, fitted: Fitted) -> None:
    say(f"round {number}, {name}: {fitted.decision.verdict} {fitted.decision.reason}")


def _write(path: Path, constants: dict[str, Any], interval: Any) -> None:
    from beamwright import durable
    from beamwright.conditions.snapshot import Snapshot

    pieces = [(tag, interval, payload.id) for tag, payload in sorted(constants.items())]
    payloads = {payload.id: payload for payload in constants.values()}
    durable.replace(path, Snapshot("", pieces, payloads).to_bytes())
