"""Calibrations on their own: collect, fit, apply what was found, and again until nothing moves any more."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from beamwright.conditions.payload import Payload, shift
from beamwright.conditions.snapshot import Piece, Snapshot
from beamwright.core.errors import ConfigError
from beamwright.core.runs import Interval
from beamwright.event.banks import BankSet
from beamwright.event.calibration import (
    Calibration,
    Fitted,
    collect_path,
    fit_calibration,
    previous_constants,
)
from beamwright.event.reader import Reader


@dataclass(frozen=True)
class Source:
    """What is calibrated on: the records of an interval, under a snapshot of other conditions."""

    reader: Reader
    interval: Interval
    banks: BankSet
    snapshot: Snapshot | None = None
    workers: int = 1


@dataclass
class Rolled:
    """What came out: constants by tag, the fits of each round, and whether the last round moved anything."""

    constants: dict[str, Payload]
    rounds: list[dict[str, Fitted]] = field(default_factory=list)
    shift: float = float("inf")
    is_converged: bool = False


def in_order(calibrations: Sequence[Calibration]) -> list[Calibration]:
    """Return calibrations so that each comes after those whose tags it reads.

    Raises: ConfigError when they wait for each other, or two make one tag.
    """
    makers: dict[str, Calibration] = {}
    for one in calibrations:
        for tag in one.tags:
            if makers.setdefault(tag, one) is not one:
                raise ConfigError(f"{makers[tag].name} and {one.name} both make {tag}", hint="leave one out")
    ordered: list[Calibration] = []
    left = list(calibrations)
    while left:
        free = [one for one in left if not any(_needs(one, makers.get(r), left) for r in one.conditions)]
        if not free:
            names = ", ".join(one.name for one in left)
            raise ConfigError(f"the calibrations {names} wait for each other", hint="break the circle")
        ordered += free
        left = [one for one in left if one not in free]
    return ordered


def roll(
    calibrations: Sequence[Calibration],
    source: Source,
    initial: Mapping[str, Payload],
    *,
    most: int = 1,
    tolerance: float = 0.0,
    tell: Callable[[int, str, Fitted], None] = lambda number, name, fitted: None,
) -> Rolled:
    """Calibrate in order, each on what those before it found; repeat up to ``most`` rounds.

    It has converged when no constant moves by more than ``tolerance`` in a round.
    """
    found = Rolled(dict(initial))
    ordered = in_order(calibrations)
    for number in range(1, most + 1):
        before = dict(found.constants)
        fits = {}
        for one in ordered:
            fits[one.name] = _once(one, source, found.constants)
            found.constants |= fits[one.name].payloads if fits[one.name].decision.verdict == "accept" else {}
            tell(number, one.name, fits[one.name])
        found.rounds.append(fits)
        found.shift = max((shift(before.get(tag), new) for tag, new in found.constants.items()), default=0.0)
        found.is_converged = found.shift <= tolerance
        if found.is_converged:
            break
    return found


def _needs(one: Calibration, maker: Calibration | None, left: Sequence[Calibration]) -> bool:
    """Its own constants a calibration takes from the round before."""
    return maker is not None and maker is not one and maker in left


def _once(one: Calibration, source: Source, constants: Mapping[str, Payload]) -> Fitted:
    snapshot = _snapshot(source, constants, {*one.tags, *one.conditions})
    collected = collect_path(
        [one], source.reader, source.interval, banks=source.banks, snapshot=snapshot, workers=source.workers
    )
    previous = previous_constants(snapshot, [*one.tags, *one.conditions], source.interval)
    return fit_calibration(one, collected.accumulators[one.name], previous)


def _snapshot(source: Source, constants: Mapping[str, Payload], roles: set[str]) -> Snapshot:
    """Return what is known now, and for the other roles what the given snapshot holds."""
    pieces: list[Piece] = [(r, source.interval, constants[r].id) for r in sorted(roles & set(constants))]
    payloads = {payload.id: payload for payload in constants.values()}
    if source.snapshot is not None:
        others = sorted((roles - set(constants)) & set(source.snapshot.roles))
        for role, interval, payload_id in source.snapshot.pieces(others, source.interval):
            payload = Payload.arrays(*source.snapshot.constants(payload_id))
            payloads[payload.id] = payload
            pieces.append((role, interval, payload.id))
    return Snapshot("", pieces, payloads)
