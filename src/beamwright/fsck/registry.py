"""All checks by number, and running them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from beamwright.fsck import accounts, conditions, storage, system, work
from beamwright.fsck.model import Check, Context, Source, Violation

CHECKS = (
    Check(1, "at most one accepted output per unit and stream", work.single_output),
    Check(2, "each input event of a closed task is accounted for once per stream", accounts.each_event_once),
    Check(3, "read = written + filtered + prescaled + quarantined", accounts.balanced),
    Check(4, "every ok job has an accepted attempt that was leased to it", work.ok_jobs),
    Check(5, "the history holds only allowed transitions", work.allowed_transitions),
    Check(6, "no accepted file's path, size or hash changes", storage.unchanged, on_storage=True),
    Check(7, "every running attempt is handled within its deadline", work.handled_in_time),
    Check(8, "taking a report twice equals taking it once", work.reports_once),
    Check(
        9, "every file has its checksums, producer, inputs, release and conditions", storage.complete_metadata
    ),
    Check(10, "every verified replica was read by somebody", storage.verified_by_somebody),
    Check(11, "a live file has a verified replica", storage.live_files),
    Check(17, "files on storage = catalogue, in flight or quarantine", storage.nothing_unknown),
    Check(19, "no clean-up went past its brakes", system.brakes_held),
    Check(20, "a payload's hash is its name", conditions.payload_hashes),
    Check(21, "a frozen global tag resolves as recorded", conditions.frozen_as_recorded),
    Check(22, "no overlap in a tag version, no accepted output in a gap", conditions.no_overlap_no_gap),
    Check(23, "every acknowledged write is there", storage.acknowledged),
    Check(24, "the history's seals hold, and a backup was restored lately", system.chained_and_drilled),
)


def run(
    db: Source,
    root: Path,
    deep: bool = False,
    now: float | None = None,
    on_storage: bool = True,
    each: Callable[[Sequence[Any]], Iterable[Any]] = iter,
) -> list[Violation]:
    """Return every violation, by invariant.

    All checks see one state of the database. ``deep`` reads and hashes every file as well; without
    ``on_storage`` the database alone is judged. ``each`` goes through the files that are read.
    """
    at = time.time() if now is None else now
    checks = [check for check in CHECKS if on_storage or not check.on_storage]
    with db.read() as conn:
        context = Context(conn, root, at, deep, on_storage, each)
        return [violation for check in checks for violation in check.run(context)]
