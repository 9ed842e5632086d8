"""Explain anything: what it is, where it came from, what holds it up, what to do next, in plain words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from beamwright.catalog import datasets
from beamwright.catalog.processing import processing
from beamwright.core.errors import UnknownNameError, UsageError
from beamwright.core.messages import FAILURES
from beamwright.core.runs import SECTION_MAX, EventKey, Interval
from beamwright.core.words import number_of
from beamwright.db import lookup, schema, views
from beamwright.db.lookup import Found
from beamwright.production import counting, inspection, placing
from beamwright.production.workspace import Workspace

Row = dict[str, Any]

# So many units that are in the way are named.
SHOWN = 5
WAITING = {
    "prepared": "it waits for a free slot on a farm",
    "submitted": "its attempt waits in the queue of a farm",
    "running": "an attempt at it is running",
    "failed": "its attempts failed and none is left",
    "held": "somebody held it",
    "cancelled": "somebody cancelled it",
}


# What to do about a failure of each class.
ADVICE = {
    "input": "`beamwright fsck --deep` tells which input is wrong; deliver or produce it again",
    "stage_in": "see that the worker's node can read the storage of the inputs",
    "application_crash": "rerun it by hand under a debugger; its second attempt quarantines a poison record",
    "application_error": "its message and log name the cause: mend the code or the data",
    "time": "give it more time (`wall_s`, or a rule with action `more`), or cut the unit (action `smaller`)",
    "memory": "give it more memory (`memory_mb`, or a rule with action `more`), or cut it (action `smaller`)",
    "disk": "make room on the disk that the message names",
    "output_invalid": "the output and the account of it disagree: that is a fault of the code that wrote it",
    "copy_out": "see that the worker's node can write to the storage of its farm",
    "lost": "see whether the node is well; `beamwright task failures --by node` counts by node",
    "node": "see whether the node is well; a rule with action `exclude` avoids it",
    "submit": "`beamwright site check` asks the farm for the reason",
    "policy": "release, constants or ticket are not those asked for: install the right release, then retry",
}


@dataclass
class Explanation:
    """Sentences about one thing; ``holds`` is empty when nothing is in its way."""

    kind: str
    name: str
    what: str
    origin: list[str] = field(default_factory=list)
    holds: list[str] = field(default_factory=list)
    next: list[str] = field(default_factory=list)

    def document(self) -> Row:
        """Return a JSON-ready form."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Return the explanation as text."""
        parts = (("Where it came from", self.origin), ("What holds it up", self.holds), ("Next", self.next))
        return [
            self.what,
            *(line for title, told in parts if told for line in ("", f"{title}:", *_bullets(told))),
        ]


def explain(conn: sa.Connection, name: str, workspace: Workspace | None = None) -> Explanation:
    """Explain the thing of this name: run, chunk, task, unit, attempt, file, collection, payload, tag, event.

    Given the workspace, it tells what a job misses at its farms, too.
    Raises: UnknownNameError, UsageError when the beginning of a hash fits several things.
    """
    if name.count(":") == 3:
        return _event(conn, EventKey.parse(name))
    found = resolve(conn, name)
    told = _EXPLAINERS[found.kind](conn, found)
    lack = workspace and found.kind == "unit" and placing.waits_for_release(conn, workspace, int(found.id))
    if lack:
        told.holds, told.next = [*told.holds[1:], lack[0]], [lack[1]]
    return told


def resolve(conn: sa.Connection, name: str) -> Found:
    """Return the one thing that a name means; a dataset may be cited, a release begin with sha256: or dev+.

    Raises: UnknownNameError, UsageError when a name fits several things.
    """
    if ":" in name and ("@" in name or "#" in name):
        cited = datasets.cited(conn, name)
        return Found("dataset", cited.id, cited.citation)
    found = lookup.find(conn, name) or lookup.releases(conn, name)
    if not found:
        raise UnknownNameError("thing", name, lookup.names(conn))
    if len(found) > 1 and len({f.kind for f in found if f.kind != "file"}) != 1:
        found = _preferred(found, name)
    # Of the versions of a dataset the newest is meant.
    return found[-1] if found[0].kind == "dataset" else found[0]


def _preferred(found: list[Found], name: str) -> list[Found]:
    """A collection stands before its file; anything else of the same name is asked about."""
    kinds = {f.kind for f in found}
    if kinds == {"collection", "file"}:
        return [f for f in found if f.kind == "collection"]
    known = ", ".join(f"{f.kind} {f.name}" for f in found[:4])
    raise UsageError(f"{name!r} may be {known}", hint="write more of the name")


def _run(conn: sa.Connection, found: Found) -> Explanation:
    row = lookup.one(conn, schema.run, found.id)
    chunks = lookup.where(conn, schema.chunk, schema.chunk.c.sequence, run_id=row["id"])
    kind = "simulated" if row["is_mc"] else "real"
    state = f"{row['state']}, version {row['version']}"
    what = f"Run {found.name} is a {kind} run in {number_of(len(chunks), 'chunk')}; it is {state}."
    told = Explanation("run", found.name, what)
    told.origin = [
        f"chunk {c['sequence']} was delivered at {_time(c['created'])}: sections {c['first_section']} to "
        f"{_end(c['last_section'])}, {_counts(c['records'])}, read by {c['reader']}"
        for c in chunks
    ] + _told(conn, "run", row["id"])
    if row["state"] in ("announced", "open"):
        told.holds.append(
            "it is not closed: its end marker, or records that were announced, are still missing"
        )
        told.next.append("deliver the rest of the run, or the end marker")
    told.origin += [_processed(one) for one in processing(conn, row["series"], row["number"])]
    for chunk in chunks:
        _follow(told, lookup.users_of(conn, chunk_id=chunk["id"]), f"chunk {chunk['sequence']}")
        _follow_links(conn, told, chunk["id"])
    for reason in inspection.gates(conn, row["series"], row["number"]):
        told.holds.append(reason)
        told.next.append(f"look at it (`beamwright quality show {found.name}`) and decide (`quality set`)")
    return _finished(
        told, f"nothing: `beamwright run show {row['series']}/{row['number']}` shows how far every step is"
    )


def _chunk(conn: sa.Connection, found: Found) -> Explanation:
    row = lookup.one(conn, schema.chunk, found.id)
    files = views.chunk_files(conn, schema.chunk_file.c.chunk_id == row["id"])
    what = (
        f"Chunk {found.name} holds sections {row['first_section']} to {_end(row['last_section'])}: "
        f"{_counts(row['records'])}, read by {row['reader']}."
    )
    told = Explanation("chunk", found.name, what)
    told.origin = [f"file {f['name']} ({f['role']}), sha256 {f['sha256'][:16]}" for f in files]
    told.origin += [f"it was delivered at {_time(row['created'])}", *_told(conn, "chunk", row["id"])]
    _follow(told, lookup.users_of(conn, chunk_id=row["id"]), "it")
    _follow_links(conn, told, row["id"])
    return _finished(told, "nothing: every unit that takes it is done")


def _task(conn: sa.Connection, found: Found) -> Explanation:
    row = lookup.one(conn, schema.task, found.id)
    production = lookup.one(conn, schema.production, row["production_id"])
    states = counting.states(conn, row["id"])
    number = number_of(sum(states.values()), "unit")
    what = (
        f"Task {found.name} is a {row['kind']} step; it is {row['state']} with {number} "
        f"({_counts(states) or 'none yet'}), configuration version {row['config_version']}."
    )
    told = Explanation("task", found.name, what)
    told.origin = [f"production {production['name']} declares it; release {production['release']}"]
    told.origin += _told(conn, "task", row["id"])
    _follow_tasks(conn, told, [row["id"]])
    if row["state"] == "active" and not told.holds:
        told.holds.append(
            "its inputs are not complete: runs of its datasets are open, or earlier steps are at work"
        )
        told.next.append(f"`beamwright produce FILE` goes on with production {production['name']}")
    if row["state"] == "draining":
        told.holds.append("its ledger does not balance")
        told.next.append(f"`beamwright task show {found.name}` shows which line does not balance")
    return _finished(told, "nothing: it is done and balances")


def _unit(conn: sa.Connection, found: Found) -> Explanation:
    row = lookup.one(conn, schema.unit, found.id)
    task = lookup.one(conn, schema.task, row["task_id"])
    production = lookup.one(conn, schema.production, task["production_id"])
    job = next(iter(lookup.where(conn, schema.job, unit_id=row["id"])), None)
    state = job["state"] if job else "without a job"
    what = (
        f"Unit {row['key'][:12]} of step {task['step']} of production {production['name']} is {state}: "
        f"{row['kind']} over {row['record'] or 'all'} records of {_interval(row)}."
    )
    told = Explanation("unit", row["key"], what)
    told.origin = [f"it takes {name}" for name in lookup.inputs_of(conn, row["id"])]
    if row["resolved_hash"]:
        told.origin.append(f"its conditions have the resolved hash {row['resolved_hash'][:16]}")
    if job:
        told.origin += _told(conn, "job", job["id"])
        attempts = lookup.where(conn, schema.attempt, schema.attempt.c.number, job_id=job["id"])
        told.origin += [_attempt_text(attempt) for attempt in attempts]
        _hold(told, job, row["key"], attempts)
    made = [
        f"stream {o['stream']}: {o['events']} records"
        for o in lookup.where(conn, schema.output, unit_id=row["id"])
    ]
    return _finished(told, f"nothing: it gave {', '.join(made)}" if made else "nothing")


def _hold(told: Explanation, job: Row, key: str, attempts: list[Row]) -> None:
    """Say why a job is not done, and what to do."""
    if job["state"] not in WAITING:
        return
    reason = f": {job['reason']}" if job["reason"] else ""
    told.holds.append(WAITING[job["state"]] + reason)
    if job["state"] == "prepared" and job["failures"]:
        told.holds.append(
            f"it failed {number_of(job['failures'], 'time')} and is tried again after "
            f"{_time(job['not_before'])}"
        )
    failed = next((a for a in reversed(attempts) if a["failure_class"]), None)
    if failed:
        meaning = FAILURES.get(failed["failure_class"], "")
        told.holds.append(
            f"the last failure was {failed['failure_class']} ({meaning}): {failed['message'] or 'no message'}"
        )
        told.next.append(f"`beamwright job log {key[:12]}` shows what the attempt wrote")
    if failed:
        told.next.append(ADVICE.get(failed["failure_class"], "mend the cause"))
    if job["state"] == "failed":
        told.next += [
            f"`beamwright job rerun {key[:12]}` does the same work again on this terminal",
            f"`beamwright job retry {key[:12]} --reason …`, or run the same `beamwright produce` again",
        ]
    if job["state"] == "held":
        told.next.append(f"`beamwright job release {key[:12]} --reason …` lets it go on")
    elif job["state"] in ("prepared", "submitted", "running"):
        told.next.append("wait, or run `beamwright produce FILE` if no process works in this workspace")
    if job["state"] == "submitted":
        told.next.append("`beamwright site check` tells what its batch system says of jobs that wait")


def _attempt(conn: sa.Connection, found: Found) -> Explanation:
    row = lookup.one(conn, schema.attempt, found.id)
    job = lookup.one(conn, schema.job, row["job_id"])
    unit = lookup.one(conn, schema.unit, job["unit_id"])
    what = f"Attempt {row['number']} at unit {unit['key'][:12]} ({_interval(unit)}) is {row['state']}."
    told = Explanation(
        "attempt", row["nonce"], what, [_attempt_text(row), *_told(conn, "attempt", row["id"])]
    )
    told.origin.append(f"its job directory is {row['directory']}")
    if row["state"] == "superseded":
        told.origin.append("another attempt's report was accepted first; nothing of this one is used")
    if row["failure_class"]:
        told.holds.append(
            f"{row['failure_class']}: {row['message'] or FAILURES.get(row['failure_class'], '')}"
        )
    told.next.append(f"`beamwright explain {unit['key'][:12]}` explains its unit, which is {job['state']}")
    return told


def _file(conn: sa.Connection, found: Found) -> Explanation:
    copies = views.files(conn, schema.file.c.id == found.id)
    row = copies[0]
    parents = views.parents(conn, [row["id"]]).get(row["id"], [])
    children = views.children(conn, row["id"])
    kind = f"an {row['kind']}" if row["kind"][0] in "aeiou" else f"a {row['kind']}"
    what = f"File {row['did']} is {kind} file of {row['size']} bytes, sha256 {row['sha256'][:16]}."
    told = Explanation("file", row["did"], what)
    told.origin = [
        _producer(conn, row["attempt_id"], row["lineage"]),
        *(f"it was made from {p['name']}" for p in parents),
    ]
    told.origin += [f"{c['name']} was made from it" for c in children]
    told.origin += [f"a copy at {r['path']} is {r['replica']}" for r in copies if r["path"]]
    _hold_file(told, [r for r in copies if r["replica"] not in (None, "deleted")])
    return _finished(told, "nothing: it is registered, and a copy was verified")


def _hold_file(told: Explanation, copies: list[Row]) -> None:
    """Say what is wrong with the copies of a file, where none is verified."""
    states = sorted({str(r["replica"]) for r in copies})
    if "verified" in states:
        return
    if "present" in states or "suspect" in states:
        unread = "nobody has read a copy of it yet" if "present" in states else "its copy is suspect"
        told.holds.append(unread)
        places = sorted({r["endpoint"] for r in copies if r["replica"] in ("present", "suspect")})
        told.next += [f"`beamwright file verify --at {place}` reads it" for place in places[:3]]
    else:
        told.holds.append(f"its copy is {' or '.join(states) or 'missing'}")
        told.next.append("`beamwright fsck --deep` reads every copy")


def _collection(conn: sa.Connection, found: Found) -> Explanation:
    row = lookup.one(conn, schema.collection, found.id)
    files = views.files_of_collections(conn, [row["id"]]).get(row["id"], [])
    parents = views.parents(conn, [f["id"] for f in files])
    flags = ", simulated" * bool(row["is_mc"]) + ", resampled" * bool(row["is_resampled"])
    what = (
        f"Collection {found.name} holds {row['events']} records of stream {row['stream']} "
        f"(tier {row['tier']}{flags}) "
        f"of {_interval(row)} in {number_of(len({f['id'] for f in files}), 'file')}; it is {row['state']}."
    )
    told = Explanation("collection", found.name, what)
    if row["unit_id"] is not None:
        told.origin.append(_maker(conn, row["unit_id"]))
    names = [p["name"] for f in files for p in parents.get(f["id"], [])]
    told.origin += [f"it was made from {name}" for name in dict.fromkeys(names)]
    if row["release"]:
        configuration = f", configuration {row['config_hash'][:12]}" if row["config_hash"] else ""
        told.origin.append(f"release {row['release'][:19]}{configuration}")
    if row["global_tag"]:
        resolved = f", resolved hash {row['resolved_hash'][:16]}" if row["resolved_hash"] else ""
        told.origin.append(f"conditions of {row['global_tag']}{resolved}")
    told.origin += _told(conn, "collection", row["id"])
    successor = lookup.successor(conn, row["id"])
    if successor:
        told.next.append(f"use {successor}, which takes its place")
    users = lookup.users_of(conn, collection_id=row["id"])
    told.origin += [f"unit {u['key'][:12]} of step {u['step']} takes it ({u['state']})" for u in users]
    if row["state"] != "valid":
        told.holds.append(f"it is {row['state']} and is not used any more")
        told.next = told.next or [f"`beamwright impact {found.name}` lists what was made from it"]
    return _finished(told, f"nothing: open it with beamwright.open({found.name!r})")


def _dataset(conn: sa.Connection, found: Found) -> Explanation:
    row = lookup.one(conn, schema.dataset, found.id)
    plain = f"{row['scope']}:{row['name']}"
    members = views.dataset_members(conn, int(row["id"]))
    number = len(members)
    if row["state"] == "open":
        number = len(datasets.collections(conn, datasets.cited(conn, f"{plain}@{row['version']}")))
    verb = "lists" if row["content_hash"] else "finds now"
    state = f"is {row['state']} and {verb} {number_of(number, 'collection')}"
    what = f"Dataset {plain}, version {row['version']}, {state}."
    told = Explanation("dataset", found.name, what)
    told.origin = [f"its query is: {_query(row['query'])}", *_told(conn, "dataset", row["id"])]
    gone = [m["name"] for m in members if m["state"] != "valid"]
    if gone:
        told.holds.append(f"{len(gone)} of its collections are not valid any more: {', '.join(gone[:3])}")
        told.next.append(f"`beamwright dataset since {plain} {row['version']}`")
    if row["state"] == "withdrawn":
        told.holds.append("it was withdrawn: it must not be used")
        told.next.append(f"`beamwright dataset define {plain} --where …` begins the next version")
    how = "cite it as" if row["content_hash"] else "freeze it to cite it:"
    return _finished(told, f"{how} {plain}@{row['version']}")


def _payload(conn: sa.Connection, found: Found) -> Explanation:
    row = lookup.one(conn, schema.payload, found.id)
    uses = lookup.users_of_payload(conn, str(row["id"]))
    stored = f"{row['kind']}, {row['size']} bytes), stored at {_time(row['created'])}"
    what = f"Payload {row['id'][:16]} is a set of constants ({stored}."
    told = Explanation("payload", str(row["id"]), what)
    told.origin = [
        f"{u['tag']} gives it for {_interval(u)}: {u['origin']}{_because(u['reason'])}" for u in uses
    ]
    for link in views.links(conn):
        if (
            isinstance(link["result"], dict)
            and row["id"] in link["result"].values()
            and link["state"] == "accepted"
        ):
            told.origin.append(f"step {link['step']} fitted it from chunk {_chunk_name(link)}")
    if not uses:
        told.holds.append("no tag gives it")
        told.next.append(f"`beamwright impact {str(row['id'])[:12]}` tells whether a unit used it")
    return _finished(told, f"nothing: `beamwright conditions show {str(row['id'])[:12]}` shows its content")


def _tag(conn: sa.Connection, found: Found) -> Explanation:
    row = lookup.one(conn, schema.tag, found.id)
    held = views.validities(conn, found.name)
    over = number_of(len(held), "interval")
    what = f"Tag {found.name}, version {row['version']}, gives {row['kind']} over {over}."
    told = Explanation("tag", found.name, what)
    told.origin = [
        f"{_interval(v)}: payload {v['payload_id'][:12]}, {v['origin']}{_because(v['reason'])}" for v in held
    ]
    told.origin += [
        f"global tag {name} has it as a member" for name in lookup.global_tags_of(conn, int(row["id"]))
    ]
    return _finished(told, "nothing: tags only grow, and every version resolves as it did")


def _global_tag(conn: sa.Connection, found: Found) -> Explanation:
    row = next(tag for tag in views.global_tags(conn) if tag["id"] == found.id)
    hashed = f", Merkle hash {row['merkle'][:16]}" if row["merkle"] else ""
    state = f"{row['state']} at version {row['version']}"
    what = f"Global tag {found.name} is {state} with {number_of(len(row['tags']), 'tag')}{hashed}."
    told = Explanation("global tag", found.name, what)
    told.origin = [f"member {name}, version {version}" for name, version in row["tags"].items()]
    told.origin += _told(conn, "global_tag", row["id"])
    if row["state"] == "open":
        told.next.append(
            "a production that ends with freeze = true closes it; until then each sweep adds to it"
        )
    return _finished(told, "nothing: what it resolves to never changes")


def _production(conn: sa.Connection, found: Found) -> Explanation:
    row = lookup.one(conn, schema.production, found.id)
    state = f"finished at {_time(row['finished'])}" if row["finished"] else "not finished"
    what = f"Production {found.name} of experiment {row['experiment']} is {state}; release {row['release']}."
    told = Explanation("production", found.name, what, _told(conn, "production", row["id"]))
    tasks = views.tasks(conn, row["id"])
    for task in tasks:
        jobs = _counts(task["jobs"]) or "no job yet"
        told.origin.append(f"task {found.name}/{task['step']} ({task['kind']}) is {task['state']}: {jobs}")
    _follow_tasks(conn, told, [task["id"] for task in tasks])
    if not row["finished"] and not told.next:
        told.next.append("run `beamwright produce FILE` again: it goes on from here and says what is missing")
    return _finished(told, f"nothing: `beamwright report {found.name}` writes its report")


def _event(conn: sa.Connection, key: EventKey) -> Explanation:
    units = lookup.units_at(conn, key)
    what = f"Event {key} lies in the key range of {number_of(len(units), 'unit')}."
    told = Explanation("event", str(key), what)
    told.origin = [
        f"{_unit_name(u)} of {u['production']}, {u['kind']} over {u['record'] or 'all'} records: {u['state']}"
        for u in units
    ]
    for row in lookup.quarantine_at(conn, key):
        told.holds.append(
            f"module {row['module']} could not process this {row['record']} record: {row['error']}"
        )
        told.next.append(
            "mend the module, or the data; its key stands in the ledger and in the lineage of the outputs"
        )
    if not units:
        told.holds.append("no unit covers its key: its run was not delivered, or no step takes it")
        told.next.append(f"`beamwright explain {key.series}/{key.run}` explains its run")
    return _finished(told, "nothing: if it was delivered, the ledger of these units accounts for it")


def _release(conn: sa.Connection, found: Found) -> Explanation:
    counts = lookup.uses_of_release(conn, str(found.id))
    kind = "a working tree" if str(found.id).startswith("dev+") else "an installed release"
    told = Explanation("release", found.name, f"Release {found.name} is {kind} of the software.")
    told.origin = [f"production {name} was made with it" for name in counts.productions]
    told.origin.append(
        f"{counts.attempts} accepted attempts ran it, {counts.collections} collections name it"
    )
    return _finished(told, f"nothing: `beamwright impact {found.name[:19]}` lists what was made with it")


_EXPLAINERS: dict[str, Callable[[sa.Connection, Found], Explanation]] = {
    "run": _run,
    "chunk": _chunk,
    "task": _task,
    "unit": _unit,
    "attempt": _attempt,
    "file": _file,
    "collection": _collection,
    "dataset": _dataset,
    "payload": _payload,
    "tag": _tag,
    "global tag": _global_tag,
    "production": _production,
    "release": _release,
}


def _processed(one: Row) -> str:
    """Say where, with what and when a unit of a run was done."""
    names = ", ".join(f"{role} {'/'.join(i[:12] for i in ids)}" for role, ids in one["constants"].items())
    return (
        f"step {one['step']} of {one['production']} ran on farm {one['farm']} with release "
        f"{(one['release'] or 'unknown')[:19]} and {f'constants {names}' if names else 'no constants'}, "
        f"done at {_time(one['ended'])}"
    )


def _follow(told: Explanation, units: Sequence[Row], who: str, number: int | None = None) -> None:
    """Say which units are in the way; ``number`` is how many there are where these are the first of them."""
    waiting = [u for u in units if u["state"] in WAITING]
    for unit in waiting[:SHOWN]:
        told.holds.append(f"{who} waits for {_unit_name(unit)}, {unit['state']}: {WAITING[unit['state']]}")
    left = (len(waiting) if number is None else number) - SHOWN
    if left > 0:
        told.holds.append(f"and {left} more units")
    told.next += [f"`beamwright explain {unit['key'][:12]}`" for unit in waiting[:1]]


def _follow_tasks(conn: sa.Connection, told: Explanation, task_ids: Sequence[int]) -> None:
    """Say which units of tasks are in the way."""
    first, number = lookup.units_in_states(conn, task_ids, WAITING, SHOWN)
    _follow(told, first, "it", number)


def _follow_links(conn: sa.Connection, told: Explanation, chunk_id: int) -> None:
    for link in views.links(conn):
        if link["chunk_id"] != chunk_id:
            continue
        told.origin.append(
            f"its link in the chain of step {link['step']} is {link['state']}{_because(link['reason'])}"
        )
        if link["state"] == "held":
            run = f"{link['series']}/{link['run']}"
            told.holds.append(f"the chain of step {link['step']} is held at it: a person decides")
            told.next.append(f"`beamwright calibration accept {run} --reason …`, or reject")
        elif link["state"] not in ("accepted", "carried", "invalidated"):
            told.holds.append(
                f"calibration step {link['step']} has not settled it: the link is {link['state']}"
            )
            told.next.append(
                f"`beamwright calibration show {link['step']}` shows the chain; runs go strictly in order"
            )


def _finished(told: Explanation, otherwise: str) -> Explanation:
    if not told.holds and not told.next:
        told.next.append(otherwise)
    return told


def _told(conn: sa.Connection, kind: str, identity: int) -> list[str]:
    """Return the history of an object in words."""
    events = views.history_of(conn, kind, [str(identity)])
    return [f"{_time(e['at'])} {e['actor']} made it {e['target']}{_because(e['reason'])}" for e in events]


def _attempt_text(row: Row) -> str:
    used = f" after {row['wall_s']:.1f} s" if row["wall_s"] else ""
    failure = f", {row['failure_class']}: {row['message'] or ''}" if row["failure_class"] else ""
    return f"attempt {row['number']} on farm {row['farm']} is {row['state']}{used}{failure}"


def _producer(conn: sa.Connection, attempt_id: int | None, lineage: Row) -> str:
    if attempt_id is None and "registered" in lineage:
        by = lineage["registered"]
        return f"{by['by']} registered it from {by['source'] or 'a record'}; it was made elsewhere"
    if attempt_id is None:
        return "it was delivered, not made here"
    attempt = lookup.one(conn, schema.attempt, attempt_id)
    job = lookup.one(conn, schema.job, attempt["job_id"])
    return f"{_maker(conn, job['unit_id'])}, by attempt {attempt['number']} on farm {attempt['farm']}"


def _maker(conn: sa.Connection, unit_id: int) -> str:
    unit = lookup.one(conn, schema.unit, unit_id)
    task = lookup.one(conn, schema.task, unit["task_id"])
    return f"step {task['step']} made it in unit {unit['key'][:12]} over {_interval(unit)}"


def _interval(row: Row) -> str:
    return str(Interval.from_document(views.interval_of(row)))


def _query(query: Row) -> str:
    """Return a dataset's query as it was written: an expression, or criteria by name."""
    named = (f"{k} {', '.join(v) if isinstance(v, list) else v}" for k, v in query.items() if k != "where")
    return ", ".join([*filter(None, [query.get("where")]), *named])


def _counts(counts: Any) -> str:
    return ", ".join(f"{number} {name}" for name, number in sorted(dict(counts or {}).items()) if number)


def _end(section: int) -> str:
    return "the end" if section == SECTION_MAX else str(section)


def _unit_name(row: Row) -> str:
    return f"unit {row['key'][:12]} of step {row['step']}"


def _chunk_name(link: Row) -> str:
    return f"{link['series']}/{link['run']}/{link['sequence']}"


def _because(reason: str) -> str:
    return f" ({reason})" if reason else ""


def _time(seconds: float | None) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S") if seconds else "no known time"


def _bullets(told: Sequence[str]) -> list[str]:
    return [f"  - {line}" for line in told]
