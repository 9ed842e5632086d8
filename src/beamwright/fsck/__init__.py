"""The invariants as checks on database and storage: read-only, and sharing no code with what they check."""

from __future__ import annotations

from beamwright.fsck.registry import CHECKS, run
from beamwright.fsck.model import Check, Violation

__all__ = ["CHECKS", "Check", "Violation", "run"]
