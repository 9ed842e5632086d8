"""The states of every noun, as transition tables; they live here and nowhere else."""

from __future__ import annotations

from beamwright.core.errors import StateError, UnknownNameError

Table = dict[str, frozenset[str]]


def _table(text: str) -> Table:
    """Read lines ``a b -> c d``: each state on the left may become each on the right."""
    table: dict[str, set[str]] = {}
    for line in text.strip().splitlines():
        left, right = line.split("->")
        for source in left.split():
            table.setdefault(source, set()).update(right.split())
        for target in right.split():
            table.setdefault(target, set())
    return {state: frozenset(targets) for state, targets in table.items()}


TABLES: dict[str, Table] = {
    # A late chunk reopens a run as a new version.
    "run": _table("announced -> open\nopen -> closed incomplete\nclosed incomplete -> open"),
    # New inputs reopen a closed task.
    "task": _table(
        "draft -> active\nactive -> held draining\nheld -> active\ndraining -> closed\nclosed -> active"
    ),
    # submitted -> ok is a report whose start nobody saw; submitted/running -> prepared is a lost attempt.
    # What is redone under other constants supersedes a job in any state.
    "job": _table(
        "prepared -> submitted held cancelled\nsubmitted -> running ok failed prepared held cancelled\n"
        "running -> ok failed prepared held cancelled\nfailed -> prepared split excluded held cancelled\n"
        "held -> prepared cancelled\n"
        "prepared submitted running ok failed held excluded cancelled -> superseded"
    ),
    # lost/killed -> reported is a late report: the first valid report wins.
    "attempt": _table(
        "leased -> submitted reported lost killed\nsubmitted -> running reported lost killed\n"
        "running -> reported lost killed\nreported -> accepted rejected superseded\nlost killed -> reported"
    ),
    # A person holds a link before it starts, lets a held one go, or takes the constants of its rejected fit;
    # a skip-back invalidates whatever has begun.
    "chain": _table(
        "waiting -> collecting carried held\ncollecting -> accumulating carried\n"
        "accumulating -> fitted carried collecting\nfitted -> accepted rejected\nrejected -> carried held\n"
        "held -> waiting carried accepted\n"
        "collecting accumulating held accepted carried -> invalidated\ninvalidated -> waiting"
    ),
    "replica": _table(
        "planned -> copying\ncopying -> present\npresent -> verified suspect\nverified -> suspect deleting\n"
        "suspect -> verified lost deleting\ndeleting -> deleted"
    ),
    "transfer": _table("queued -> active\nactive -> done failed\nfailed -> queued held"),
    "archive": _table("queued -> written\nwritten -> verified"),
    "recall": _table("requested -> staging\nstaging -> online"),
    "dataset": _table("open -> frozen\nfrozen -> withdrawn"),
    "collection": _table("building -> valid\nvalid -> superseded bad"),
    "global_tag": _table("open -> frozen"),
}

INITIAL = {
    "run": "announced", "task": "draft", "job": "prepared", "attempt": "leased", "chain": "waiting",
    "replica": "planned", "transfer": "queued", "archive": "queued", "recall": "requested", "dataset": "open",
    "collection": "building", "global_tag": "open",
}  # fmt: skip


def states(kind: str) -> frozenset[str]:
    """Return all states of a kind of thing."""
    if kind not in TABLES:
        raise UnknownNameError("kind of state", kind, TABLES)
    return frozenset(TABLES[kind])


def allowed(kind: str, source: str, target: str) -> bool:
    """Tell whether ``source`` may become ``target``."""
    return target in TABLES[kind].get(source, frozenset())


def check(kind: str, source: str, target: str, name: str = "") -> None:
    """Refuse a transition that the table does not hold.

    Raises: StateError.
    """
    if target not in states(kind):
        raise UnknownNameError(f"{kind} state", target, states(kind))
    if not allowed(kind, source, target):
        can = ", ".join(sorted(TABLES[kind].get(source, ()))) or "nothing: it is final"
        raise StateError(f"{kind} {name} is {source} and cannot become {target}", hint=f"it can become {can}")


def sources(kind: str, target: str) -> tuple[str, ...]:
    """Return the states from which ``target`` can be reached in one step."""
    return tuple(sorted(s for s, targets in TABLES[kind].items() if target in targets))
