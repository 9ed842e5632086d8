"""Tickets: the key of one attempt, with which its wrapper signs the report."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from typing import Any

from beamwright.core.canonical import canonical_json


def ticket(secret: bytes, nonce: str, unit: str) -> bytes:
    """Return the key of the attempt ``nonce`` at a unit; it signs no other attempt's report."""
    return hmac.new(secret, f"{nonce}|{unit}".encode(), hashlib.sha256).digest()


def signature(report: Mapping[str, Any], key: bytes) -> str:
    """Return the signature of a report, whatever it says its signature is."""
    unsigned = {name: value for name, value in report.items() if name != "signature"}
    return hmac.new(key, canonical_json(unsigned), hashlib.sha256).hexdigest()


def is_signed(report: Mapping[str, Any], key: bytes) -> bool:
    """Tell whether the report is signed with this key."""
    found = report.get("signature")
    return isinstance(found, str) and hmac.compare_digest(found.encode(), signature(report, key).encode())
