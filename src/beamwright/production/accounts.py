"""Does a report account for every record? Pure: lines of the ledger against what is known otherwise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from beamwright.core.balance import imbalance, taken, terms
from beamwright.core.runs import Interval


@dataclass(frozen=True)
class Expected:
    """What a unit's accounts must agree with.

    ``records`` holds, by input record kind, the number to be read where it is known, or to be generated
    where ``is_request``; it is empty for a merge. ``events`` holds, by stream, the events that were found in
    its file; ``declared`` every stream of the unit; ``prescaled`` the record kinds that are prescaled.
    """

    interval: Interval
    records: Mapping[str, int | None]
    events: Mapping[str, int]
    declared: frozenset[str]
    prescaled: frozenset[str] = frozenset()
    is_request: bool = False


def problems(
    lines: Sequence[Mapping[str, Any]], quarantined: Sequence[Mapping[str, Any]], expected: Expected
) -> list[str]:
    """Return what is wrong with the accounts, in words; nothing when every record is accounted for."""
    malformed = [p for line in lines for p in _malformed(line, expected)]
    if malformed:
        return malformed
    counts = Counter((line["record"], line["stream"]) for line in lines)
    found = [f"{record}/{stream} has {n} lines" for (record, stream), n in counts.items() if n > 1]
    bad = Counter(record for record, _ in {(q["record"], q["key"]) for q in quarantined})
    drawn = Counter(record for record, _ in {(line["record"], line["prescaled"]) for line in lines})
    found += [f"{record} is prescaled otherwise in another stream" for record, n in drawn.items() if n > 1]
    for line in lines:
        found += _unbalanced(line) + _disagreeing(line, expected, bad)
    for stream, events in expected.events.items():
        found += _misstored(stream, events, [line for line in lines if line["stream"] == stream], expected)
    return found


def is_input(record: str, expected: Expected) -> bool:
    """Tell whether a record kind is one that the unit reads, not one that it creates."""
    return not expected.records or record in expected.records


def _name(line: Mapping[str, Any]) -> str:
    return f"{line['record']}/{line['stream']}"


def _malformed(line: Mapping[str, Any], expected: Expected) -> list[str]:
    try:
        counts = [line[term] for term in terms(line)]
        interval = Interval.from_document(line["interval"])
        name = _name(line)
    except (KeyError, TypeError, ValueError) as error:
        return [f"a line of the ledger has not the agreed form: {error!r}"]
    if any(type(count) is not int or count < 0 for count in counts):
        return [f"{name} counts with something that is no number: {counts}"]
    if ("requested" in line) != expected.is_request:
        return [f"{name} speaks of records that were{' not' * expected.is_request} requested"]
    if line["stream"] not in expected.declared:
        return [f"{name} speaks of a stream that the unit does not declare"]
    if not expected.interval.covers(interval):
        return [f"{name} accounts for {interval}, outside the unit's {expected.interval}"]
    return []


def _unbalanced(line: Mapping[str, Any]) -> list[str]:
    wrong = imbalance(line)
    return [f"{_name(line)} does not balance: {wrong}"] if wrong else []


def _disagreeing(line: Mapping[str, Any], expected: Expected, bad: Mapping[str, int]) -> list[str]:
    found = []
    foreign = "created" if is_input(line["record"], expected) else "read"
    if line[foreign] and not expected.is_request:
        found.append(
            f"{_name(line)}: {foreign} is {line[foreign]} for a record kind that is not {foreign} here"
        )
    if line["prescaled"] and line["record"] not in expected.prescaled:
        found.append(f"{_name(line)}: prescaled is {line['prescaled']}, and it has no prescale")
    known = expected.records.get(line["record"])
    if known is not None and taken(line) != known:
        term = "requested" if expected.is_request else "read"
        found.append(f"{_name(line)}: {term} is {taken(line)}, the unit holds {known}")
    if line["quarantined"] != bad.get(line["record"], 0):
        named = bad.get(line["record"], 0)
        found.append(f"{_name(line)}: quarantined is {line['quarantined']}, the report names {named}")
    return found


def _misstored(stream: str, events: int, lines: Sequence[Mapping[str, Any]], expected: Expected) -> list[str]:
    """Compare what was written with what the file holds: the created records, or else those read."""
    created = [line for line in lines if not is_input(line["record"], expected)]
    read = [line for line in lines if is_input(line["record"], expected)]
    missing = [r for r in expected.records if r not in {line["record"] for line in read}]
    if not read or missing:
        return [f"stream {stream} has no line for {', '.join(missing) or 'what was read'}"]
    written = sum(line["written"] for line in created or read)
    if written != events:
        return [f"stream {stream}: written is {written}, its file holds {events} events"]
    if created and any(line["written"] > written for line in read):
        return [f"stream {stream}: more parents than created records"]
    return []
