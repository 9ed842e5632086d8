"""A workspace: the folder that holds settings, database, snapshots and the local farms."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import sqlalchemy as sa

from beamwright import durable
from beamwright.core.clock import Clock, Nonces, SystemClock, random_nonce
from beamwright.core.errors import ConfigError, ConflictError, WorkspaceBusyError
from beamwright.core.settings import DEFAULT_SETTINGS, Settings, decoded, read_settings, with_database
from beamwright.db.engine import Database, located

SETTINGS_FILE = "beamwright.toml"
_STARTING_S = 10.0
_FOLDERS = ("inbox", "inbox/done", "inbox/rejected", "snapshots", "indexes", "farms", "reports", "logs")


@dataclass
class Workspace:
    """An open workspace; ``root`` is absolute."""

    root: Path
    settings: Settings
    clock: Clock = field(default_factory=SystemClock)
    nonces: Nonces = random_nonce

    @classmethod
    def create(cls, root: Path, settings: str = DEFAULT_SETTINGS) -> Workspace:
        """Make a workspace in an empty or new folder, with its database.

        Raises: ConflictError when the folder is a workspace already, ConfigError for wrong settings.
        """
        root = root.absolute()
        read_settings(settings)
        if (root / SETTINGS_FILE).exists():
            raise ConflictError(
                f"{root} is a workspace already", hint="use it as it is, or choose another folder"
            )
        for folder in _FOLDERS:
            (root / folder).mkdir(parents=True, exist_ok=True)
        _write_secret(root / "secret")
        durable.put_once(root / SETTINGS_FILE, settings.encode())
        workspace = cls.open(root)
        database = Database(workspace.database_url)
        database.migrate()
        database.close()
        return workspace

    @classmethod
    def open(cls, root: Path) -> Workspace:
        """Open a workspace.

        Raises: ConfigError when the folder is none.
        """
        root = root.absolute()
        path = root / SETTINGS_FILE
        if not path.is_file():
            raise ConfigError(
                f"{root} is no workspace: it has no {SETTINGS_FILE}", hint="make one with `beamwright init`"
            )
        return cls(root, read_settings(decoded(path.read_bytes(), str(path)), str(path)))

    @classmethod
    def find(cls, start: Path) -> Workspace:
        """Open the nearest workspace at or above a folder."""
        start = start.absolute()
        for folder in (start, *start.parents):
            if (folder / SETTINGS_FILE).is_file():
                return cls.open(folder)
        raise ConfigError(
            f"no workspace at {start} or above it",
            hint="make one with `beamwright init`, or give --workspace DIR",
        )

    @property
    def database_url(self) -> sa.URL:
        """Where the settings say that the database is."""
        return located(self.settings.database.url, self.root)

    @cached_property
    def db(self) -> Database:
        """The database; nothing is upgraded on the way.

        Raises: FormatError, with the command that upgrades, when its schema is not the current one.
        """
        database = Database(self.database_url)
        database.check()
        return database

    @property
    def backups(self) -> Path:
        """The folder of the database's backups."""
        return self.root / "backups"

    def use_database(self, url: str) -> None:
        """Write another database into the settings, and nothing else."""
        path = self.root / SETTINGS_FILE
        text = with_database(path.read_text(), url)
        durable.replace(path, text.encode())
        self.settings = read_settings(text, str(path))
        self.__dict__.pop("db", None)

    @cached_property
    def secret(self) -> bytes:
        """The key from which attempts' tickets are made."""
        return bytes.fromhex((self.root / "secret").read_text().strip())

    @cached_property
    def _farms(self) -> dict[str, Path]:
        return {}

    def farm(self, name: str) -> Path:
        """Return the folder of a farm."""
        if name not in self._farms:
            self._farms[name] = self.root / f"farms/{name}"
        return self._farms[name]

    def lock(self) -> durable.FileLock:
        """Return the lock that the one producing process holds.

        Raises: WorkspaceBusyError on acquiring it, naming the holder.
        """
        return _Lock(self.root / "lock")


class _Lock(durable.FileLock):
    """The workspace's lock, whose refusal says what to do."""

    def __enter__(self) -> durable.FileLock:
        # What a process was just starting when it was killed holds its lock until it runs its own program.
        patience = _STARTING_S if _has_ended(self.holder()) else 0.0
        try:
            self.acquire(patience)
            return self
        except BlockingIOError as error:
            holder = self.holder() or "another process"
            message = f"the workspace {Path(self.path).parent} is in use by process {holder}"
            raise WorkspaceBusyError(
                message, hint="wait for it, stop it, or use another workspace with --workspace"
            ) from error


def _has_ended(holder: str) -> bool:
    """Tell whether there was such a process on this machine."""
    try:
        os.kill(int(holder), 0)
    except ProcessLookupError:
        return True
    except (ValueError, PermissionError):
        return False
    return False


def _write_secret(path: Path) -> None:
    import secrets

    if path.exists():
        return
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(descriptor, secrets.token_hex(32).encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
