"""What a step that generates is asked for: how many events of which runs, and who makes them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Literal

from pydantic import Field

from beamwright.core.errors import ConfigError, nearest
from beamwright.core.settings import Declaration

Measure = Literal["run", "luminosity", "livetime", "record"]
# What a command may be told, and what it has to be told.
TOLD = ("python", "seed", "events", "series", "run", "first_section", "last_section", "first_event",
        "conditions", "output")  # fmt: skip
NEEDED = ("seed", "events", "output")
_NAME = re.compile(r"\{([^{}]*)\}")


class RequestSpec(Declaration):
    """How many events are generated for the runs of a dataset, and by what.

    ``events`` are those of each run, of ``all`` runs together, or those for each unit of luminosity, second
    of livetime, or record of data that a run has; ``share`` says in proportion to what ``all`` are shared
    out. Modules of the path make them or, where there is one, a ``command``, whose file ``reader`` reads.
    """

    events: float = Field(gt=0)
    per: Literal["run", "all", "luminosity", "livetime", "record"] = "run"
    share: Measure = "run"
    record: str = ""
    command: list[str] = []
    reader: str = ""

    @property
    def measure(self) -> Measure:
        """What the number of a run's events is in proportion to."""
        return self.share if self.per == "all" else self.per


def check(request: RequestSpec, step: str, source: str) -> None:
    """Check what can be checked without the experiment.

    Raises: ConfigError.
    """
    where = f"{source}: the request of step {step!r}"
    if request.per in ("run", "all") and request.events != int(request.events):
        raise ConfigError(
            f"{where} is {request.events:g} events", hint="whole events, or a number per luminosity"
        )
    if request.share != "run" and request.per != "all":
        raise ConfigError(f"{where} shares out what is no total", hint='give per = "all", or no share')
    if bool(request.command) != bool(request.reader):
        raise ConfigError(
            f"{where} has a command or a reader alone", hint="a reader of the experiment reads its file"
        )
    if request.command:
        _check_command(request.command, where)


def _check_command(command: Sequence[str], where: str) -> None:
    named = [name for argument in command for name in _NAME.findall(argument)]
    for name in named:
        if name not in TOLD:
            raise ConfigError(f"{where} tells its command {{{name}}}", hint=nearest(name, TOLD))
    for name in NEEDED:
        if name not in named:
            raise ConfigError(
                f"{where} does not tell its command {{{name}}}", hint=f"it must be told {', '.join(NEEDED)}"
            )


def filled(command: Sequence[str], told: Mapping[str, object]) -> list[str]:
    """Return a command with what it is told in the place of each name."""
    return [_NAME.sub(lambda match: str(told[match[1]]), argument) for argument in command]


def shared(total: int, weights: Sequence[float]) -> list[int]:
    """Return whole shares of a total in proportion to weights; they add up to it, exactly."""
    exact = [Fraction(weight) for weight in weights]
    whole = sum(exact)
    if not whole:
        return [0] * len(exact)
    wanted = [total * weight / whole for weight in exact]
    found = [int(one) for one in wanted]
    order = sorted(range(len(exact)), key=lambda i: (found[i] - wanted[i], i))
    for i in order[: total - sum(found)]:
        found[i] += 1
    return found
