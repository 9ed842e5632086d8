"""What is told at the end of a pass: module statistics, profile, quarantine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from beamwright.cli.common import say
from beamwright.core.errors import FormatError

if TYPE_CHECKING:
    from beamwright.cli.steering import Request
    from beamwright.core.runs import Position
    from beamwright.event.plan import Again

Row = dict[str, Any]
MEGA = 1e6


def tell(request: Request, document: Row) -> None:
    """Show the statistics on standard error, and write the files that were asked for."""
    statistics = document["statistics"]
    for text in _modules(statistics["modules"]):
        say(text)
    profile = statistics.get("profile", [])
    for text in _profile(profile) if request.profile else ():
        say(text)
    if request.profile_file is not None:
        request.profile_file.write_text(json.dumps(speedscope(document["path"], profile)), encoding="utf-8")
    if request.quarantine is not None:
        write_quarantine(request.quarantine, document["quarantined"])


def lines(document: Row) -> list[str]:
    """Return what people read of a pass on standard output, times went to standard error; of quarantined
    records that failed alike, one traceback.
    """
    from beamwright.report import text

    bad = document["quarantined"]
    rows = [{name: value for name, value in row.items() if name != "traceback"} for row in bad]
    shown = {name: value for name, value in document.items() if name != "statistics"}
    found = text.pairs(shown | {"quarantined": rows})
    first = {(row["module"], row["error"]): row for row in reversed(bad)}
    for row in reversed(first.values()):
        found += ["", f"{row['module']}, {row['key']}", *row["traceback"].rstrip().splitlines()]
    return found


def _modules(modules: dict[str, Row]) -> list[str]:
    from beamwright.report import text

    columns = ("module", "records", "calls", "s", "records/s", "start-up s", "memory MB")
    rows = [
        (
            name, row["records"], row["calls"], row["seconds"] + row["hooks_seconds"],
            row["records"] / row["seconds"] if row["seconds"] else None, row["start_up_seconds"],
            row["memory"] / MEGA,
        )
        for name, row in modules.items()
    ]  # fmt: skip
    return text.table(columns, rows) if rows else []


def _profile(profile: list[Row]) -> list[str]:
    from beamwright.report import text

    whole = sum(row["seconds"] for row in profile) or 1.0
    columns = ("module", "hook", "calls", "s", "%", "median µs", "95 % µs", "longest µs", "memory MB")
    ordered = sorted(profile, key=lambda row: -float(row["seconds"]))
    rows = [
        (
            row["module"], row["hook"], row["calls"], row["seconds"], 100 * row["seconds"] / whole,
            row["median_us"], row["p95_us"], row["longest_us"], row["memory"] / MEGA,
        )
        for row in ordered
    ]  # fmt: skip
    return ["", *text.table(columns, rows)]


def speedscope(name: str, profile: list[Row]) -> Row:
    """Return a profile in the format that speedscope.app shows: modules, and their hooks in them."""
    frames: list[str] = []

    def frame(text: str) -> int:
        if text not in frames:
            frames.append(text)
        return frames.index(text)

    samples = [[frame(row["module"]), frame(f"{row['module']}.{row['hook']}")] for row in profile]
    weights = [row["seconds"] for row in profile]
    one = {
        "type": "sampled", "name": name, "unit": "seconds", "startValue": 0, "endValue": sum(weights),
        "samples": samples, "weights": weights,
    }  # fmt: skip
    return {
        "$schema": "https://www.speedscope.app/file-format-schema.json",
        "name": name,
        "exporter": "beamwright",
        "shared": {"frames": [{"name": text} for text in frames]},
        "profiles": [one],
    }


def write_quarantine(path: Path, quarantined: list[Row]) -> None:
    """Write one line of JSON per quarantined record, put in place at once."""
    from beamwright import durable

    lines = [json.dumps(row, sort_keys=True, ensure_ascii=False) + "\n" for row in quarantined]
    durable.replace(path, "".join(lines).encode())


def read_quarantine(path: Path, records: tuple[str, ...]) -> Again:
    """Return the records that such a file names; ``records`` are the kinds that the path reads and makes.

    Raises: FormatError where it is no such file, or names records of another kind.
    """
    from beamwright.event.plan import Again

    read: set[Position] = set()
    made: dict[Position, Position] = {}
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        key, parent = _quarantined(text, records, f"{path}, line {number}")
        if parent is None:
            read.add(key)
        else:
            made[key] = parent
    return Again(frozenset(read), made)


def _quarantined(text: str, records: tuple[str, ...], place: str) -> tuple[Position, Position | None]:
    """Return the key of a record in a line, and, where it was made in the path, that of its parent."""
    from beamwright.core.runs import EventKey

    try:
        row = json.loads(text)
        key, kind = EventKey.parse(row["key"]), row["record"]
        parent = EventKey.parse(row["parent"]) if "parent" in row else None
    except (ValueError, TypeError, KeyError) as error:
        raise FormatError(
            f"{place} names no quarantined record: {error}",
            hint="give a file that `beamwright process --quarantine` wrote",
        ) from error
    if kind not in records:
        raise FormatError(
            f"{place} names a {kind} record, and the path has {' and '.join(records)} records",
            hint="give the steering file of the pass that wrote it",
        )
    if kind != records[0] and parent is None:
        raise FormatError(
            f"{place} names a {kind} record without its parent",
            hint=f"write the file again, or run the {records[0]} record that it was made from",
        )
    return key.position, None if parent is None else parent.position
