"""Durable files with the standard library alone: written once, synced, never overwritten, inside their root.

A name becomes visible only when its whole content is on the disk: every file is written under a temporary
name in the directory of its final one, synced, and then linked (``put_once``, ``copy_new``, ``move_new``)
or renamed (``replace``) into place; then the directory is synced. The job wrapper travels with this module
to places where nothing else is installed.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO

CHUNK = 1 << 20
PARTIAL = ".part"


@dataclass(frozen=True, slots=True)
class Digest:
    """Size in bytes, sha256 and adler32 in hexadecimal."""

    size: int
    sha256: str
    adler32: str


class Hasher:
    """Computes a ``Digest`` over chunks; ``seconds`` is the time that this took."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()
        self._adler32 = 1
        self._size = 0
        self.seconds = 0.0

    def update(self, chunk: bytes) -> None:
        """Take the next chunk in."""
        start = time.perf_counter()
        self._sha256.update(chunk)
        self._adler32 = zlib.adler32(chunk, self._adler32)
        self._size += len(chunk)
        self.seconds += time.perf_counter() - start

    def digest(self) -> Digest:
        """Return the digest of what was taken in so far."""
        return Digest(self._size, self._sha256.hexdigest(), f"{self._adler32 & 0xFFFFFFFF:08x}")


class LockHeldError(BlockingIOError):
    """Another process holds the lock; ``holder`` is what it says of itself."""

    def __init__(self, path: Path, holder: str) -> None:
        super().__init__(errno.EWOULDBLOCK, f"held by {holder or 'another process'}", str(path))
        self.holder = holder


class ConfinementError(ValueError):
    """A path would leave its root."""


def _nothing() -> None:
    return None


def digest_of(data: bytes) -> Digest:
    """Return the digest of bytes."""
    hasher = Hasher()
    hasher.update(data)
    return hasher.digest()


def chunks(stream: IO[bytes], beat: Callable[[], None] = _nothing) -> Iterator[bytes]:
    """Yield the rest of a stream in chunks, with a call of ``beat`` before each."""
    beat()
    while chunk := stream.read(CHUNK):
        yield chunk
        beat()


def hash_file(path: Path, beat: Callable[[], None] = _nothing) -> Digest:
    """Read a file in full, once, and return its digest."""
    hasher = Hasher()
    with open(path, "rb", buffering=0) as stream:
        for chunk in chunks(stream, beat):
            hasher.update(chunk)
    return hasher.digest()


def fsync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(path: Path) -> None:
    """Make a directory and its missing parents, each durable in the one above it."""
    missing = []
    current = path
    while not current.is_dir():
        missing.append(current)
        current = current.parent
    for directory in reversed(missing):
        try:
            os.mkdir(directory)
        except FileExistsError:
            if not directory.is_dir():
                raise
        fsync_directory(directory.parent)


def put_once(path: Path, data: bytes, mode: int = 0o644, sync: bool = True) -> None:
    """Write a file that never changes again; the same content a second time is no error.

    Without ``sync`` its name lasts once the caller has synced the directory.
    Raises: FileExistsError when the name is taken by other content.
    """
    with _temporary(path, mode) as (temporary, descriptor):
        _write(descriptor, data)
        os.fsync(descriptor)
        _publish(temporary, path, sync)


def move_new(
    source: Path,
    target: Path,
    hasher: Hasher | None = None,
    beat: Callable[[], None] = _nothing,
    sync: bool = True,
) -> Digest:
    """Like ``copy_new``; a file of the same file system that has no other name moves without a copy."""
    status = os.stat(source)
    if status.st_nlink > 1 or status.st_dev != os.stat(target.parent).st_dev:
        return copy_new(source, target, hasher, beat, sync)
    hasher = hasher or Hasher()
    descriptor = os.open(source, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        with open(descriptor, "rb", buffering=0, closefd=False) as origin:
            for chunk in chunks(origin, beat):
                hasher.update(chunk)
        os.fchmod(descriptor, 0o644)
        os.fsync(descriptor)
        _publish(source, target, sync)
    finally:
        os.close(descriptor)
    _unlink(source)
    return hasher.digest()


def copy_new(
    source: Path,
    target: Path,
    hasher: Hasher | None = None,
    beat: Callable[[], None] = _nothing,
    sync: bool = True,
) -> Digest:
    """Copy a file to a new name in one pass and return the digest of what was copied.

    Without ``sync`` its name lasts once the caller has synced the directory.
    Raises: FileExistsError when the name is taken by other content.
    """
    hasher = hasher or Hasher()
    with open(source, "rb", buffering=0) as origin, _temporary(target, 0o644) as (temporary, descriptor):
        for chunk in chunks(origin, beat):
            hasher.update(chunk)
            _write(descriptor, chunk)
        os.fsync(descriptor)
        _publish(temporary, target, sync)
    return hasher.digest()


def link_new(temporary: Path, final: Path, sync: bool = True) -> None:
    """Give a synced temporary file its final name without overwriting, durably.

    Raises: FileExistsError when the name is taken.
    """
    os.link(temporary, final)
    if sync:
        fsync_directory(final.parent)
    _unlink(temporary)


def replace(path: Path, data: bytes, mode: int = 0o644, durable: bool = True) -> None:
    """Replace a file's content atomically; without ``durable`` a power cut may bring back an older one."""
    with _temporary(path, mode) as (temporary, descriptor):
        _write(descriptor, data)
        if durable:
            os.fsync(descriptor)
        os.replace(temporary, path)
        if durable:
            fsync_directory(path.parent)


def remove_partial(directory: Path) -> None:
    """Remove the temporary files that a killed writer left in a directory."""
    for entry in list(os.scandir(directory)):
        if entry.name.startswith(".") and entry.name.endswith(PARTIAL):
            _unlink(Path(entry.path))


def confined(root: Path, relative: str | Path) -> Path:
    """Return ``root / relative`` when it stays below the root and crosses no symbolic link.

    Raises: ConfinementError.
    """
    parts = Path(relative).parts
    if not parts or Path(relative).is_absolute() or ".." in parts or "\0" in str(relative):
        raise ConfinementError(f"{str(relative)!r} does not stay inside {root}")
    current = root
    for part in parts:
        current = current / part
        if current.is_symlink():
            raise ConfinementError(f"{str(relative)!r} crosses the symbolic link {current}")
    return current


class FileLock:
    """An exclusive lock between processes that ends with its holder; the file names the holder.

    Children that a holder forks without exec share the lock; those that it execs do not.
    """

    def __init__(self, path: Path, name: str = "") -> None:
        self.path = path
        self.name = name or f"{os.getpid()}"
        self._descriptor = -1

    def holder(self) -> str:
        """Return what the last holder called itself, or nothing."""
        try:
            return self.path.read_text(errors="replace").strip()
        except FileNotFoundError:
            return ""

    def acquire(self, patience: float = 0.0) -> None:
        """Take the lock at once, or within ``patience`` seconds (``is_locked`` holds it for an instant).

        Raises: LockHeldError.
        """
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        limit = time.monotonic() + patience
        while not _try_lock(descriptor):
            if time.monotonic() >= limit:
                os.close(descriptor)
                raise LockHeldError(self.path, self.holder())
            time.sleep(0.01)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, self.name.encode(), 0)
        self._descriptor = descriptor

    def release(self) -> None:
        """Give the lock back."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> FileLock:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def is_locked(path: Path) -> bool:
    """Tell whether some process holds the lock of this file."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not _try_lock(descriptor)
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _temporary(path: Path, mode: int) -> Iterator[tuple[Path, int]]:
    """Open a temporary file of an exclusive name beside ``path``; gone afterwards."""
    temporary = path.parent / f".{path.name}.{os.urandom(6).hex()}{PARTIAL}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        yield temporary, descriptor
    finally:
        os.close(descriptor)
        _unlink(temporary)


def _unlink(path: Path) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _publish(temporary: Path, final: Path, sync: bool) -> None:
    """Link a synced file to its final name; a file of the same content there counts as ours."""
    try:
        link_new(temporary, final, sync)
    except FileExistsError:
        if hash_file(final) != hash_file(temporary):
            raise
        _fsync_file(final)
        fsync_directory(final.parent)


def _fsync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
