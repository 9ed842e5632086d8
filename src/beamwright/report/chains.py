"""Chains as text: the run × constant table, and sparklines of how values and figures move along a chain."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from beamwright.conditions.trends import MISSING, sparkline
from beamwright.report import terminal, text
from beamwright.report.document import flat_figures

Row = dict[str, Any]
Told = Callable[[Row], dict[str, Any]]

# A mean below this part of the rms is what is left of a sum that is zero by construction.
ROUNDING = 1e-9


def chain_lines(links: Sequence[Row]) -> list[str]:
    """Return the run × constant table, and a sparkline of each array of constants that moves."""
    moves = [[*place, *row] for place, part in _chains(links) for row in _moves(part, _values(part))]
    moving = [row for row in moves if len(set(row[-1]) - {MISSING}) > 1]
    columns = ("step", "series", "constants", "first", "last", "run by run")
    return [*terminal.link_lines(links), *(["", *text.table(columns, moving)] if moving else [])]


def figure_lines(links: Sequence[Row]) -> list[str]:
    """Return a table per calibration and chain of what its fits say, with a sparkline of each number."""
    names = sorted({name for link in links for name in link["figures"] or {}})
    chains = [
        (name, [link for link in part if name in (link["figures"] or {})])
        for _, part in _chains(links)
        for name in names
    ]
    found = [["", *_fits(name, part)] for name, part in chains if part]
    return [line for part in found for line in part][1:]


def _fits(name: str, links: Sequence[Row]) -> list[str]:
    told = [dict(flat_figures(link["figures"][name])) for link in links]
    columns = list(dict.fromkeys(key for figures in told for key in figures))
    rows = [
        [terminal.chunk_name(link), *(figures.get(key) for key in columns)]
        for link, figures in zip(links, told, strict=True)
    ]
    place = f"{links[0]['step']}, series {links[0]['series']}"
    moves = _moves(links, lambda link: dict(flat_figures(link["figures"][name])))
    drawn = text.table(("figure", "first", "last", "run by run"), moves) if moves else []
    return [f"{name} ({place})", *text.table(("run", *columns), rows), *drawn]


def _chains(links: Iterable[Row]) -> list[tuple[tuple[str, str], list[Row]]]:
    """Return the links of each chain, without those that a skip-back withdrew."""
    found: dict[tuple[str, str], list[Row]] = {}
    for link in links:
        if link["state"] != "invalidated":
            found.setdefault((link["step"], link["series"]), []).append(link)
    return list(found.items())


def _values(links: Sequence[Row]) -> Told:
    """Return what tells a link's arrays: means, or the rms where the means are nothing but rounding."""
    arrays = [
        (role, name, one) for link in links for role, of in (link.get("values") or {}).items()
        for name, one in of.items()
    ]  # fmt: skip
    large = {(role, name) for role, name, one in arrays if abs(one["mean"]) > ROUNDING * one["rms"]}

    def told(link: Row) -> dict[str, Any]:
        return {
            f"{role}.{name}, {'mean' if (role, name) in large else 'rms'}":
            one["mean" if (role, name) in large else "rms"]
            for role, of in (link.get("values") or {}).items() for name, one in of.items()
        }  # fmt: skip

    return told


def _moves(links: Sequence[Row], told: Told) -> list[list[Any]]:
    """Return a row per number that the links tell: its name, its first and last value, its sparkline."""
    found = [told(link) for link in links]
    names = sorted({name for values in found for name, value in values.items() if _is_number(value)})
    rows = []
    for name in names:
        values = [value if _is_number(value := one.get(name)) else None for one in found]
        known = [value for value in values if value is not None]
        rows.append([name, known[0], known[-1], sparkline(values)])
    return rows


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
