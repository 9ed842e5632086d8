"""Batch systems whose one list names the past as well: what their dialects share."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence

from beamwright.batch.cluster import Access, Answer, Request
from beamwright.batch.scheduler import Status


class Listing(ABC):
    """A dialect whose list of jobs names finished ones, too, as long as the batch system keeps them.

    ``gone`` is found in a complaint about a job that is not there any more.
    """

    gone: re.Pattern[str]

    @abstractmethod
    def poll(self, access: Access) -> Request:
        """Return the command that lists all jobs."""

    @abstractmethod
    def polled(self, access: Access, answer: Answer) -> dict[str, Status]:
        """Read the list."""

    def cancelled(self, answer: Answer) -> bool:
        """Tell whether the request arrived: each complaint is about a job that is gone."""
        complaints = [line for line in answer.err.splitlines() if line.strip()]
        return answer.exit_code == 0 or bool(
            complaints and all(self.gone.search(line) for line in complaints)
        )

    def history(self, access: Access, ids: Sequence[str]) -> Request:
        """Return the command that lists all jobs."""
        return self.poll(access)

    def remembered(self, access: Access, answer: Answer) -> dict[str, Status]:
        """Read the finished jobs out of the list."""
        told = self.polled(access, answer)
        return {batch_id: status for batch_id, status in told.items() if status.state == "finished"}
