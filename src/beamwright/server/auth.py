"""Who may look: nobody without a token of the workspace."""

from __future__ import annotations

import hashlib
import hmac

COOKIE = "beamwright"
CONSOLE = b"beamwright console, read"
CONDITIONS = b"beamwright conditions, read"


def token(secret: bytes, purpose: bytes = CONSOLE) -> str:
    """Return the token that lets its bearer read; it follows from the workspace's secret."""
    return hmac.new(secret, purpose, hashlib.sha256).hexdigest()


def is_allowed(
    secret: bytes, authorization: str | None, cookie: str | None, purposes: tuple[bytes, ...] = (CONSOLE,)
) -> bool:
    """Tell whether a header ``Authorization: Bearer TOKEN`` or the cookie carries a token of a purpose."""
    scheme, _, bearer = (authorization or "").partition(" ")
    offered = (bearer.strip() if scheme.lower() == "bearer" else (cookie or "")).encode()
    return any(hmac.compare_digest(offered, token(secret, one).encode()) for one in purposes)
