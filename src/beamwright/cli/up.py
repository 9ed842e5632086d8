"""``beamwright up``: the console of a workspace."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from beamwright.cli.common import dumps, open_workspace, reading, say
from beamwright.core.errors import ConfigError, ConflictError

if TYPE_CHECKING:
    from beamwright.production.workspace import Workspace


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen at.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8421, show_default=True, help="The port; 0: any."
)
@reading
def up(host: str, port: int, folder: Path | None, as_json: bool) -> None:
    """Serve the console of a workspace, read-only, until it is stopped.

    Prints the link to open; it holds the workspace's token, so pass it on to nobody.
    """
    from beamwright.server.auth import token

    workspace = open_workspace(folder)
    serve, address = _server(workspace, host, port)
    link = f"{address}/login?token={token(workspace.secret)}"
    click.echo(dumps({"address": address, "link": link}) if as_json else f"console  {link}")
    say("stop it with Ctrl-C")
    serve()
    workspace.db.close()


def _server(workspace: Workspace, host: str, port: int) -> tuple[Callable[[], None], str]:
    """Return what serves the console, and its address; the port is ours from here on."""
    try:
        import uvicorn

        from beamwright.server.app import create_app
    except ImportError as error:
        hint = "install the extra: pip install 'beamwright[server]'"
        raise ConfigError(f"the console needs {error.name}, which is not installed", hint=hint) from error
    try:
        listening = socket.create_server((host, port))
    except OSError as error:
        message = f"{host}:{port} cannot be listened at: {error.strerror or error}"
        raise ConflictError(message, hint="choose another port with --port (0: any)") from error
    # Addresses may hold the token: no access log.
    config = uvicorn.Config(create_app(workspace), log_level="warning", access_log=False)
    server = uvicorn.Server(config)
    return lambda: server.run(sockets=[listening]), f"http://{host}:{listening.getsockname()[1]}"
