"""What is delivered in the demonstration, and the constants that are loaded by hand."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from beamwright.core.errors import UnknownNameError
from beamwright.core.runs import SECTION_MAX, Interval
from beamwright.production.experiment import DeliveredFile, Delivery, LoadedConstants
from orca.constants import GEOMETRY
from orca.samples import complete, geometry, initial, sample

FOLDER = Path(__file__).parent / "productions"
RUN_OFFSET = 9_000_000
"""Resampled runs have the number of their source, and this added."""
RUNS = {"44": (5971, 6884), "267": (25291, 25291), "133": (13339, 13340)}
"""First and last run that the loaded constants of a series hold for."""


def deliveries(name: str) -> list[Delivery]:
    """List the deliveries of the demonstration in the order in which they come.

    Raises: UnknownNameError, ConfigError when the sample data are not installed.
    """
    if name != "demo":
        raise UnknownNameError("list of deliveries of orca", name, ["demo"])
    document = tomllib.loads((FOLDER / "deliveries.toml").read_text(encoding="utf-8"))
    return [_delivery(row, document["files"]) for row in document["delivery"]]


def loaded_constants(name: str) -> list[LoadedConstants]:
    """Give a set of constants by its name.

    Raises: UnknownNameError, ConfigError when the sample data are not installed.
    """
    if name == "geometry":
        return [LoadedConstants(GEOMETRY, _validity(s), geometry(s)) for s in ("44", "267")]
    if name == "simulation":
        return [LoadedConstants(role, _validity("133"), p) for role, p in complete("133").items()]
    if name == "resampled":
        whole = Interval.runs("44", RUN_OFFSET, 2 * RUN_OFFSET)
        return [LoadedConstants(role, whole, p) for role, p in complete("44").items()]
    series = name.removeprefix("initial-")
    if series not in ("44", "267"):
        valid = ["geometry", "simulation", "initial-44", "initial-267", "resampled"]
        raise UnknownNameError("set of constants of orca", name, valid)
    return [LoadedConstants(role, _validity(series), p) for role, p in initial(series).items()]


def _validity(series: str) -> Interval:
    return Interval.runs(series, *RUNS[series])


def _delivery(row: Mapping[str, Any], known: Mapping[str, Any]) -> Delivery:
    series, run = row["run"].split(":")
    files = tuple(
        DeliveredFile(role, str(sample(name)), known[name]["size"], known[name]["sha256"])
        for role, name in row["files"].items()
    )
    return Delivery(
        series=series, run=int(run), tier=row.get("tier", "raw"), sequence=row.get("sequence", 1),
        reader=row.get("reader", "online"), files=files, records=row["records"],
        first_section=row.get("first", 0), last_section=row.get("last", SECTION_MAX),
        is_mc=row.get("mc", False), end_marker=row.get("end", False), after=row.get("after", ""),
    )  # fmt: skip
