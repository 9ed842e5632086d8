"""``beamwright up`` serves the console in a process of its own."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("uvicorn", reason="the extra `server` is not installed")

import httpx

from beamwright.production.workspace import Workspace


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    workspace = Workspace.create(tmp_path / "workspace")
    workspace.db.close()
    return workspace.root


def command(folder: Path, port: int) -> list[str]:
    argv = ["-m", "beamwright.cli.main", "up", "--port", str(port), "--json", "--workspace", str(folder)]
    return [sys.executable, *argv]


def test_the_printed_link_opens_the_console_and_nothing_else_does(folder: Path) -> None:
    with subprocess.Popen(command(folder, 0), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        told = json.loads(process.stdout.readline())
        with httpx.Client(base_url=told["address"], follow_redirects=True, timeout=240) as client:
            assert client.get("/index.json").status_code == 401
            client.get(told["link"])
            assert client.get("/index.json").json() == {"productions": []}
        process.send_signal(signal.SIGINT)
        process.wait(timeout=240)
        assert told["link"].encode() not in process.stderr.read()


def test_a_port_in_use_is_named(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(command(folder, port), capture_output=True, text=True, timeout=240)
    assert done.returncode == 3
    assert f"127.0.0.1:{port} cannot be listened at" in done.stderr and "--port" in done.stderr
