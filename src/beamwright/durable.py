"""Durable files with the standard library alone: written once, synced, never overwritten, inside their root.

A name becomes visible only when its whole content is on the disk: every file is written under a temporary
name in the directory of its final one, synced, and then linked (``put_once``, ``copy_new``, ``move_new``)
or renamed (``replace``) into place; then the directory is synced. The job wrapper travels with this module
to places where nothing else is installed, and starts anew for many jobs: this module imports little, and
not ``pathlib``, ``dataclasses`` and ``typing``, which take longer to import than all the rest.
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

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType
    from typing import IO

    StrPath = str | os.PathLike[str]

CHUNK = 1 << 20
PARTIAL = ".part"


class Digest:
    """Size in bytes, sha256 and adler32 in hexadecimal."""

    __slots__ = ("adler32", "sha256", "size")

    def __init__(self, size: int, sha256: str, adler32: str) -> None:
        self.size = size
        self.sha256 = sha256
        self.adler32 = adler32

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Digest) and self._content == other._content

    def __hash__(self) -> int:
        return hash(self._content)

    def __repr__(self) -> str:
        return f"Digest{self._content}"

    @property
    def _content(self) -> tuple[int, str, str]:
        return self.size, self.sha256, self.adler32


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

    def __init__(self, path: StrPath, holder: str) -> None:
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


def hash_file(path: StrPath, beat: Callable[[], None] = _nothing) -> Digest:
    """Read a file in full, once, and return its digest."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return _hash(descriptor, Hasher(), beat)
    finally:
        os.close(descriptor)


def _hash(descriptor: int, hasher: Hasher, beat: Callable[[], None]) -> Digest:
    """Read the rest of an open file; small ones take one call and a small buffer."""
    beat()
    size = min(CHUNK, os.fstat(descriptor).st_size + 1)
    while chunk := os.read(descriptor, size):
        hasher.update(chunk)
        beat()
    return hasher.digest()


def fsync_directory(path: StrPath) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(path: StrPath) -> bool:
    """Make a directory and its missing parents, each durable in the one above it; tell whether it is new."""
    missing, current = [], os.fspath(path)
    while not os.path.isdir(current):
        missing.append(current)
        current = _parent(current)
    for directory in reversed(missing):
        try:
            os.mkdir(directory)
        except FileExistsError:
            if not os.path.isdir(directory):
                raise
        fsync_directory(_parent(directory))
    return bool(missing)


def put_once(path: StrPath, data: bytes, mode: int = 0o644, sync: bool = True) -> None:
    """Write a file that never changes again; the same content a second time is no error.

    Without ``sync`` its name lasts once the caller has synced the directory.
    Raises: FileExistsError when the name is taken by other content.
    """
    with _temporary(path, mode) as (temporary, descriptor):
        _write(descriptor, data)
        os.fsync(descriptor)
        _publish(temporary, path, sync)


def move_new(
    source: StrPath,
    target: StrPath,
    hasher: Hasher | None = None,
    beat: Callable[[], None] = _nothing,
    sync: bool = True,
) -> Digest:
    """Like ``copy_new``; a file of the same file system that has no other name moves without a copy."""
    status = os.stat(source)
    if status.st_nlink > 1 or status.st_dev != os.stat(_parent(target)).st_dev:
        return copy_new(source, target, hasher, beat, sync)
    hasher = hasher or Hasher()
    descriptor = os.open(source, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        digest = _hash(descriptor, hasher, beat)
        os.fchmod(descriptor, 0o644)
        os.fsync(descriptor)
        _publish(source, target, sync)
    finally:
        os.close(descriptor)
    return digest


def copy_new(
    source: StrPath,
    target: StrPath,
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


def link_new(temporary: StrPath, final: StrPath, sync: bool = True) -> None:
    """Give a synced temporary file its final name without overwriting, durably.

    Raises: FileExistsError when the name is taken.
    """
    os.link(temporary, final)
    if sync:
        fsync_directory(_parent(final))
    _unlink(temporary)


def replace(path: StrPath, data: bytes, mode: int = 0o644, durable: bool = True) -> None:
    """Replace a file's content atomically; without ``durable`` a power cut may bring back an older one."""
    with _temporary(path, mode) as (temporary, descriptor):
        _write(descriptor, data)
        if durable:
            os.fsync(descriptor)
        os.replace(temporary, path)
        if durable:
            fsync_directory(_parent(path))


def remove_partial(directory: StrPath) -> None:
    """Remove the temporary files that a killed writer left in a directory."""
    for entry in list(os.scandir(directory)):
        if entry.name.startswith(".") and entry.name.endswith(PARTIAL):
            _unlink(entry.path)


def confined(root: Path, relative: StrPath) -> Path:
    """Return ``root / relative`` when it stays below the root and crosses no symbolic link.

    Raises: ConfinementError.
    """
    return type(root)(confined_name(root, relative))


def confined_name(root: StrPath, relative: StrPath) -> str:
    """Return the path of ``confined`` as a string.

    Raises: ConfinementError.
    """
    text = os.fspath(relative)
    parts = [part for part in text.split("/") if part not in ("", ".")]
    if not parts or text.startswith("/") or ".." in parts or "\0" in text:
        raise ConfinementError(f"{text!r} does not stay inside {root}")
    current = os.fspath(root)
    for part in parts:
        current = f"{current}/{part}"
        if os.path.islink(current):
            raise ConfinementError(f"{text!r} crosses the symbolic link {current}")
    return current


class FileLock:
    """An exclusive lock between processes that ends with its holder; the file names the holder.

    Children that a holder forks without exec share the lock; those that it execs do not.
    """

    def __init__(self, path: StrPath, name: str = "") -> None:
        self.path = path
        self.name = name or f"{os.getpid()}"
        self._descriptor = -1

    def holder(self) -> str:
        """Return what the last holder called itself, or nothing."""
        try:
            with open(self.path, errors="replace") as stream:
                return stream.read().strip()
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


def is_locked(path: StrPath) -> bool:
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
def _temporary(path: StrPath, mode: int) -> Iterator[tuple[str, int]]:
    """Open a temporary file of an exclusive name beside ``path``; gone afterwards."""
    folder, name = os.path.split(path)
    temporary = os.path.join(folder, f".{name}.{os.urandom(6).hex()}{PARTIAL}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        yield temporary, descriptor
    except BaseException:
        _unlink(temporary)
        raise
    finally:
        os.close(descriptor)


def _parent(path: StrPath) -> str:
    return os.path.dirname(path) or "."


def _unlink(path: StrPath) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _publish(temporary: StrPath, final: StrPath, sync: bool) -> None:
    """Link a synced file to its final name; a file of the same content there counts as ours."""
    try:
        link_new(temporary, final, sync)
    except FileExistsError:
        if hash_file(final) != hash_file(temporary):
            raise
        _fsync_file(final)
        fsync_directory(_parent(final))
        _unlink(temporary)


def _fsync_file(path: StrPath) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
