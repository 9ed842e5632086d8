"""The site's farms: whether each answers, and how far its adaptor is to be trusted."""

from __future__ import annotations

from collections import Counter
from typing import Any

from beamwright.batch.cluster import Cluster, programs
from beamwright.batch.scheduler import VERBS, Scheduler
from beamwright.core import plugins
from beamwright.core.errors import BeamwrightError
from beamwright.production.workspace import Workspace

UNSAID = "not said by its plug-in"


def check(workspace: Workspace) -> list[dict[str, Any]]:
    """Ask every farm for its jobs; tell of each whether it answers, and of each verb what shows it works."""
    return [_checked(workspace, name) for name in workspace.settings.farm]


def _checked(workspace: Workspace, name: str) -> dict[str, Any]:
    farm = workspace.settings.farm[name]
    told: dict[str, Any] = {"farm": name, "scheduler": farm.scheduler, "slots": farm.slots}
    try:
        scheduler: Scheduler = plugins.load(plugins.SCHEDULERS, farm.scheduler)(workspace, name, farm)
    except BeamwrightError as error:
        return told | {
            "answers": False,
            "message": error.message,
            "hint": error.hint,
            "jobs": {},
            "waiting": {},
            "verbs": {},
        }
    try:
        return told | _answer(scheduler) | {"verbs": _verbs(scheduler)}
    finally:
        scheduler.close()


def _answer(scheduler: Scheduler) -> dict[str, Any]:
    """Tell how many jobs a farm has by state, and of those that wait what the batch system says of them."""
    try:
        told = scheduler.poll().values()
    except BeamwrightError as error:
        return {"answers": False, "message": error.message, "hint": error.hint, "jobs": {}, "waiting": {}}
    jobs = Counter(status.state for status in told)
    waiting = Counter(status.reason for status in told if status.state == "queued" and status.reason)
    return {"answers": True, "message": "", "hint": "", "jobs": dict(jobs), "waiting": dict(waiting)}


def _verbs(scheduler: Scheduler) -> dict[str, dict[str, str | None]]:
    evidence = getattr(scheduler, "evidence", {})
    found = programs(scheduler.dialect, scheduler.access) if isinstance(scheduler, Cluster) else {}
    return {verb: {"shown by": evidence.get(verb, UNSAID), "program": found.get(verb)} for verb in VERBS}
