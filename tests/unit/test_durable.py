"""Durable files: what is visible at any moment, what survives a power cut, what is refused."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from beamwright import durable
from support.powerloss import DIRECTORY, Recorder, State

DATA = b"0123456789" * 3


def names(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())


def test_put_once_writes_once_and_takes_the_same_content_again(tmp_path: Path) -> None:
    path = tmp_path / "file"
    durable.put_once(path, DATA, mode=0o600)
    inode = path.stat().st_ino
    durable.put_once(path, DATA)
    assert path.read_bytes() == DATA and path.stat().st_ino == inode
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        durable.put_once(path, b"other")
    assert path.read_bytes() == DATA and names(tmp_path) == ["file"]


def test_copy_new_gives_the_digest_of_what_it_copied(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(os.urandom(3 * durable.CHUNK + 17))
    beats = []
    digest = durable.copy_new(source, tmp_path / "target", beat=lambda: beats.append(1))
    data = (tmp_path / "target").read_bytes()
    assert data == source.read_bytes()
    assert digest == durable.hash_file(source) == durable.digest_of(data)
    assert digest == durable.Digest(len(data), sha256(data).hexdigest(), f"{zlib.adler32(data):08x}")
    assert len(beats) == 5
    (tmp_path / "target").write_bytes(b"other")
    with pytest.raises(FileExistsError):
        durable.copy_new(source, tmp_path / "target")


def test_replace_changes_content_and_leaves_nothing_else(tmp_path: Path) -> None:
    for content in (b"one", b"two"):
        durable.replace(tmp_path / "file", content)
        assert (tmp_path / "file").read_bytes() == content
    durable.replace(tmp_path / "file", b"three", durable=False)
    assert (tmp_path / "file").read_bytes() == b"three" and names(tmp_path) == ["file"]


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(durable.os, "write", full)
    for write in (durable.put_once, durable.replace):
        with pytest.raises(OSError, match="No space left"):
            write(tmp_path / "file", DATA)
    assert names(tmp_path) == []


def test_remove_partial_takes_temporary_files_only(tmp_path: Path) -> None:
    for name in (".a.0011.part", "b.part", ".hidden"):
        (tmp_path / name).touch()
    durable.remove_partial(tmp_path)
    assert names(tmp_path) == [".hidden", "b.part"]


@pytest.mark.parametrize("relative", ["../x", "a/../../x", "/etc/passwd", "", "link/x", "a/link2", "nul\0"])
def test_confined_refuses_what_leaves_its_root(tmp_path: Path, relative: str) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to("/etc")
    (tmp_path / "a" / "link2").symlink_to("/etc/passwd")
    with pytest.raises(durable.ConfinementError):
        durable.confined(tmp_path, relative)
    assert durable.confined(tmp_path, "a/b/c") == tmp_path / "a" / "b" / "c"


def test_a_lock_excludes_others_names_its_holder_and_ends_with_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    code = (
        "import sys, time; from pathlib import Path; from beamwright import durable\n"
        "lock = durable.FileLock(Path(sys.argv[1]), 'the other'); lock.acquire(); print('held', flush=True)\n"
        "time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE)
    assert other.stdout is not None and other.stdout.readline() == b"held\n"
    assert durable.is_locked(path)
    with pytest.raises(durable.LockHeldError, match="the other") as caught:
        durable.FileLock(path).acquire(patience=0.05)
    assert caught.value.holder == "the other"
    other.kill()
    other.wait()
    other.stdout.close()
    assert not durable.is_locked(path) and not durable.is_locked(tmp_path / "absent")
    with durable.FileLock(path) as lock:
        assert lock.holder() == str(os.getpid())


# --- power loss ---------------------------------------------------------------------------------------------


def cut(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    act: Callable[[Path], None],
    before: State,
    **options: bool,
) -> tuple[list[State], list[State]]:
    """Act under the model; return the states that a cut on the way may leave, and those after the return."""
    recorder = Recorder(**options)
    monkeypatch.setattr(durable, "os", recorder)
    act(tmp_path)
    monkeypatch.undo()
    total = len(recorder.calls)
    on_the_way = [state for calls in range(total) for state in recorder.states(calls, before)]
    return on_the_way, list(recorder.states(total, before))


@pytest.fixture
def usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.mark.usefixtures("usual_umask")
def test_move_new_takes_the_file_itself_unless_it_has_another_name(tmp_path: Path) -> None:
    for name, is_shared in (("alone", False), ("shared", True)):
        source, target = tmp_path / name, tmp_path / f"{name}.new"
        source.write_bytes(DATA)
        if is_shared:
            (tmp_path / "second").hardlink_to(source)
        inode = source.stat().st_ino
        assert durable.move_new(source, target) == durable.digest_of(DATA)
        assert (target.stat().st_ino == inode) != is_shared and source.exists() == is_shared
        assert target.read_bytes() == DATA and target.stat().st_mode & 0o777 == 0o644
    source.write_bytes(b"other")
    with pytest.raises(FileExistsError):
        durable.move_new(source, target)


def write_and_move(source: Path, target: Path) -> None:
    durable.replace(source, DATA, durable=False)
    assert durable.move_new(source, target) == durable.digest_of(DATA)


ACTS: dict[str, Callable[[Path], None]] = {
    "put_once": lambda root: durable.put_once(root / "file", DATA),
    "copy_new": lambda root: None if durable.copy_new(root / "source", root / "file") else None,
    "move_new": lambda root: write_and_move(root / "written", root / "file"),
    "replace": lambda root: durable.replace(root / "file", DATA),
}


def torn(states: list[State], path: Path, allowed: set[bytes | None]) -> bool:
    return any(state.get(str(path)) not in allowed for state in states)


@pytest.mark.parametrize("act", ACTS)
def test_a_power_cut_leaves_all_or_nothing_and_after_the_return_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    (tmp_path / "source").write_bytes(DATA)
    path, before = tmp_path / "file", {}
    if act == "replace":
        path.write_bytes(b"old")
        before = {str(path): b"old"}
    old = before.get(str(path))
    on_the_way, after = cut(tmp_path, monkeypatch, ACTS[act], before)
    assert len(on_the_way) > 10
    assert not torn(on_the_way, path, {old, DATA})
    assert not torn(after, path, {DATA})


@pytest.mark.parametrize("lacking", ["sync_files", "sync_directories"])
@pytest.mark.parametrize("act", ACTS)
def test_the_model_finds_a_missing_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, act: str, lacking: str
) -> None:
    (tmp_path / "source").write_bytes(DATA)
    on_the_way, after = cut(tmp_path, monkeypatch, ACTS[act], {}, **{lacking: False})
    path = tmp_path / "file"
    assert torn(on_the_way, path, {None, DATA}) or torn(after, path, {DATA})


def test_made_directories_survive_a_power_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, after = cut(tmp_path, monkeypatch, lambda root: durable.make_directory(root / "a" / "b"), {})
    for state in after:
        assert state[str(tmp_path / "a")] == state[str(tmp_path / "a" / "b")] == DIRECTORY
    durable.make_directory(tmp_path / "a" / "b")


def test_a_second_put_once_makes_sure_that_the_first_one_lasts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def twice(root: Path) -> None:
        durable.put_once(root / "file", DATA)
        recorder = durable.os
        recorder.calls[:] = [c for c in recorder.calls if "sync" not in c[0]]  # type: ignore[attr-defined]
        durable.put_once(root / "file", DATA)

    _, after = cut(tmp_path, monkeypatch, twice, {})
    assert not torn(after, tmp_path / "file", {DATA})
