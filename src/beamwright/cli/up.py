"""``beamwright up``: the console of a workspace."""

from __future__ import annotations

from pathlib import Path

import click

from beamwright.cli.common import dumps, open_workspace, reading, say


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen at.")
@click.option("--port", type=click.IntRange(0, 65535), default=8421, show_default=True, help="The port; 0: any.")
@reading
def up(host: str, port: int, folder: Path | None, as_json: bool) -> None:
    """Serve the console of a workspace, read-only, until it is stopped.

    Prints the link to open; it holds the workspace's token, so pass it on to nobody.
    """
    workspace = open_workspace(folder)
    server, address = _server(workspace, host, port)
    from beamwright.server.auth import token

    link = f"{address}/login?token={token(workspace.secret)}"
    click.echo(dumps({"address": address, "link": link}) if as_json else f"console  {link}")
    say("stop it with Ctrl-C")
    server()
    workspace.db.close()
