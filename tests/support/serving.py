"""A workspace's server on a real socket, and a relay in front of it that cuts or changes what passes."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from beamwright.production.workspace import Workspace
from beamwright.server import auth

if TYPE_CHECKING:
    import httpx


class Console:
    """Asks the application without a network."""

    def __init__(self, workspace: Workspace) -> None:
        from beamwright.server.app import create_app

        self.app = create_app(workspace)
        self.bearer = {"Authorization": f"Bearer {auth.token(workspace.secret)}"}

    def get(self, path: str, **options: object) -> httpx.Response:
        import asyncio

        import httpx

        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(app=self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://console") as client:
                return await client.get(path, **options)

        return asyncio.run(ask())


@contextmanager
def served(workspace: Workspace) -> Iterator[str]:
    """Serve the workspace in a thread; give the address."""
    import uvicorn

    from beamwright.server.app import create_app

    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(create_app(workspace), log_level="warning", access_log=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: server.run(sockets=[listening]), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=30)
        listening.close()


@dataclass
class Relay:
    """Passes bytes on to a server; lets ``budget`` bytes of answers through, then cuts every connection."""

    target: tuple[str, int]
    budget: float = float("inf")
    change: Callable[[bytes], bytes] = bytes
    passed: int = 0
    requests: int = 0
    full: threading.Event = field(default_factory=threading.Event)
    hold: bool = False

    def __post_init__(self) -> None:
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listening.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self.listening.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                ours, _ = self.listening.accept()
                theirs = socket.create_connection(self.target)
                for one, other, back in ((ours, theirs, False), (theirs, ours, True)):
                    threading.Thread(target=self._pass, args=(one, other, back), daemon=True).start()

    def _pass(self, one: socket.socket, other: socket.socket, back: bool) -> None:
        with suppress(OSError):
            while data := one.recv(65536):
                if not back:
                    self.requests += data.count(b"GET /conditions/")
                elif not self._may_pass(other, data):
                    break
                else:
                    data = self.change(data)
                other.sendall(data)
        for end in (one, other):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _may_pass(self, other: socket.socket, data: bytes) -> bool:
        left = self.budget - self.passed
        self.passed += len(data)
        if len(data) <= left:
            return True
        other.sendall(data[: max(0, int(left))])
        self.full.set()
        if self.hold:
            threading.Event().wait(60)
        return False
