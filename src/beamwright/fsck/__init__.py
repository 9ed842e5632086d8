"""The invariants as checks on database and storage: read-only, and sharing no code with what they check."""

from __future__ import annotations

from beamwright.fsck.model import Check, Violation
from beamwright.fsck.registry import CHECKS, run

__all__ = ["CHECKS", "Check", "Violation", "run"]
