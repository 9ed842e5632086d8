"""Canonical bytes and hashes: the one way in which content becomes an identity."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def canonical_json(document: Any) -> bytes:
    """Return the document as JSON with sorted keys, no spaces and no NaN: equal documents, equal bytes."""
    return _ENCODER.encode(document).encode()


def sha256_hex(data: bytes) -> str:
    """Return the sha256 of ``data`` in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def content_hash(document: Any) -> str:
    """Return the sha256 of the document's canonical JSON."""
    return sha256_hex(canonical_json(document))


def merkle_root(leaves: Iterable[str]) -> str:
    """Return the Merkle root over the leaves (any strings), sorted: a set has one root."""
    level = sorted(hashlib.sha256(b"leaf:" + leaf.encode()).digest() for leaf in leaves)
    if not level:
        return sha256_hex(b"empty")
    while len(level) > 1:
        pairs = [level[i : i + 2] for i in range(0, len(level), 2)]
        level = [hashlib.sha256(b"node:" + b"".join(pair)).digest() for pair in pairs]
    return level[0].hex()
