"""A client of another site's server: documents and bytes over HTTP; what is cut or changed is told apart."""

from __future__ import annotations

import hashlib
import http.client
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from beamwright.core.errors import ConfigError, RemoteError

TIMEOUT_S = 60.0
_FAILURES = (OSError, http.client.HTTPException)


@dataclass(frozen=True)
class Answer:
    """What a server answered; ``body`` is empty when it is as ``etag`` says that we know it."""

    status: int
    etag: str
    headers: Mapping[str, str]
    body: bytes


class Client:
    """Asks one server, over one connection that is kept; use it from one thread at a time."""

    def __init__(self, url: str, token: str = "", timeout: float = TIMEOUT_S) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ConfigError(f"{url!r} is no address of a server", hint="write https://HOST[:PORT]")
        self.url = url.rstrip("/")
        self._path = parts.path.rstrip("/")
        make = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._connection = make(parts.hostname, parts.port, timeout=timeout)
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._lock = threading.Lock()

    def get(self, path: str, query: Mapping[str, Any] | None = None, etag: str = "") -> Answer:
        """Get a path; with an ``etag`` only what differs from it.

        Raises: RemoteError, whose ``status`` is the server's where it answered.
        """
        where = f"{self._path}{quote(path)}" + (f"?{urlencode(query)}" if query else "")
        asked = self._headers | ({"If-None-Match": f'"{etag}"'} if etag else {})
        with self._lock:
            answer = self._ask(where, asked)
        if answer.status not in (200, 304):
            raise self._refused(where, answer)
        return answer

    def document(self, path: str, query: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Get a JSON document whose ETag is its sha256.

        Raises: RemoteError when it was changed on the way.
        """
        answer = self.get(path, query)
        if hashlib.sha256(answer.body).hexdigest() != answer.etag:
            message = f"what {self.url}{path} sent is not what its hash says"
            raise RemoteError(message, hint="try again; something on the way cuts or changes answers")
        document = json.loads(answer.body)
        if not isinstance(document, dict):
            raise RemoteError(f"{self.url}{path} sent no document", hint="check the address")
        return document

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _ask(self, where: str, headers: Mapping[str, str]) -> Answer:
        """Send one request; a second time where a kept connection turns out to be closed."""
        was_open = self._connection.sock is not None
        try:
            return self._exchange(where, headers)
        except _FAILURES as error:
            self._connection.close()
            if not was_open:
                raise self._cut(where, error) from error
        try:
            return self._exchange(where, headers)
        except _FAILURES as error:
            self._connection.close()
            raise self._cut(where, error) from error

    def _exchange(self, where: str, headers: Mapping[str, str]) -> Answer:
        self._connection.request("GET", where, headers=dict(headers))
        response = self._connection.getresponse()
        body = response.read()
        found = {name.lower(): value for name, value in response.getheaders()}
        etag = found.get("etag", "").removeprefix("W/").strip('"')
        return Answer(response.status, etag, found, body)

    def _cut(self, where: str, error: Exception) -> RemoteError:
        message = f"{self.url} did not answer for {where} to the end: {str(error) or type(error).__name__}"
        return RemoteError(message, hint="check the address and that the server runs; then try again")

    def _refused(self, where: str, answer: Answer) -> RemoteError:
        try:
            told = json.loads(answer.body)
            message, hint = str(told["message"]), str(told.get("hint", ""))
        except (ValueError, KeyError, TypeError):
            message, hint = f"status {answer.status}", "check the address"
        if answer.status == HTTPStatus.UNAUTHORIZED:
            hint = "give what `beamwright conditions token` tells there, with --token-file FILE"
        return RemoteError(f"{self.url} refused {where}: {message}", hint=hint, status=answer.status)
