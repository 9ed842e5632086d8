"""``beamwright site``: the farms of this workspace."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from beamwright.cli.common import Noun, open_workspace, reading, write_document


@click.group(cls=Noun)
def site() -> None:
    """The laboratory's farms."""


@site.command("check")
@reading
def check(folder: Path | None, as_json: bool) -> int:
    """Ask every farm for its jobs, and say what shows that its adaptor works.

    Each verb was tried on a real server, on recordings of one, or is written after documentation only: then
    it is experimental. The exit code is 10 when a farm does not answer.
    """
    from beamwright.core.errors import SchedulerDownError
    from beamwright.production import site as sites

    workspace = open_workspace(folder)
    try:
        farms = sites.check(workspace)
    finally:
        workspace.db.close()
    document = {"site": workspace.settings.site.name, "farms": farms}
    write_document(document, as_json, [line for farm in farms for line in _lines(farm)])
    return 0 if all(farm["answers"] for farm in farms) else SchedulerDownError.exit_code


def _lines(farm: dict[str, Any]) -> Iterator[str]:
    jobs = ", ".join(f"{number} {state}" for state, number in sorted(farm["jobs"].items()))
    state = f"answers, {jobs or 'no jobs'}" if farm["answers"] else f"fails: {farm['message']}"
    yield f"farm {farm['farm']} ({farm['scheduler']}, {farm['slots']} slots) {state}"
    for reason, number in sorted(farm["waiting"].items()):
        yield f"  {number} of the queued: {reason}"
    if farm["hint"]:
        yield f"  next: {farm['hint']}"
    for verb, told in farm["verbs"].items():
        program = f" ({told['program']})" if told["program"] else ""
        yield f"  {verb:<8} {told['shown by']}{program}"
