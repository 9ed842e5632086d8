"""Who may look: nobody without the workspace's token."""

from __future__ import annotations

import hashlib
import hmac

COOKIE = "beamwright"
_PURPOSE = b"beamwright console, read"


def token(secret: bytes) -> str:
    """Return the token that lets its bearer read; it follows from the workspace's secret."""
    return hmac.new(secret, _PURPOSE, hashlib.sha256).hexdigest()


def is_allowed(secret: bytes, authorization: str | None, cookie: str | None) -> bool:
    """Tell whether a header ``Authorization: Bearer TOKEN`` or the cookie carries the token."""
    scheme, _, bearer = (authorization or "").partition(" ")
    offered = bearer.strip() if scheme.lower() == "bearer" else (cookie or "")
    return hmac.compare_digest(offered.encode(), token(secret).encode())
