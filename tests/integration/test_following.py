"""Following a growing file or a pipe: the bytes of a file that is there, and a clean end whatever comes."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from beamwright.conditions.snapshot import Snapshot
from beamwright.core.errors import FormatError, ModuleError, NotCoveredError, StorageError, UsageError
from beamwright.core.lineage import Lineage
from beamwright.core.runs import Interval
from beamwright.event.banks import BankSet
from beamwright.event.batch import Jagged
from beamwright.event.following import CLOSED, MARKER, STOPPED, Feed, StreamError, follow_path
from beamwright.event.framing import HEAD, EventStream, decoded, packed, parsed
from beamwright.event.loop import Limits, run_path
from beamwright.event.metadata import read_metadata
from beamwright.event.validate import validate_file
from support import toy
from support.waiting import wait_for

pytestmark = pytest.mark.forks

BANKS = toy.BANKS.subset(["Header", "Hit"])
RUN = Interval.sections("A", 7)


def lineage(stream: str) -> Lineage:
    return Lineage("toy", "p", "s", "path", stream, "dst", "A", "release", "config")


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """300 events as an event builder frames them."""
    raw = toy.write_raw(
        tmp_path_factory.mktemp("raw") / "raw.json", "A", 7, {"event": toy.grid(range(1, 11), 30)}
    )
    reader = toy.ToyReader(raw, "A", 7)
    out = io.BytesIO()
    writer = EventStream(out, "A", "event", BANKS)
    writer.write_batch(reader.read("event", np.arange(300)))
    writer.end()
    return out.getvalue()


@pytest.fixture(scope="module")
def direct(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, dict[str, bytes]]:
    """What the path gives for the same events in a file."""
    folder = tmp_path_factory.mktemp("direct")
    raw = toy.write_raw(folder / "raw.json", "A", 7, {"event": toy.grid(range(1, 11), 30)})
    path = toy.events_path()
    files = {o.stream: folder / f"{o.stream}.root" for o in path.outputs}
    reader = toy.ToyReader(raw, "A", 7)
    result = run_path(path, reader, RUN, banks=toy.BANKS, outputs=files, lineage=lineage)
    return result, {name: file.read_bytes() for name, file in files.items()}


def cuts(data: bytes) -> list[int]:
    """Return where each frame begins, and the end."""
    places, at = [0], 0
    while at < len(data):
        frame = parsed(data, at)
        assert frame is not None
        at += frame.size
        places.append(at)
    return places


def follow(folder: Path, source: Path, path: Any = None, **options: Any) -> tuple[Any, dict[str, Path]]:
    path = path or toy.events_path()
    files = {o.stream: folder / f"{time.monotonic_ns()}-{o.stream}.root" for o in path.outputs}
    feed = Feed(source)
    try:
        given = {"banks": toy.BANKS, "outputs": files, "lineage": lineage, "batch_events": 40} | options
        return follow_path(path, feed.open(), **given), files
    finally:
        feed.close()


@contextmanager
def written(place: Path, parts: list[bytes], pause: float = 0.02, mode: str = "ab") -> Iterator[None]:
    """Let another process write the parts one after another, as far as it is let."""
    script = (
        "import sys, time, json\n"
        "parts = json.load(sys.stdin)\n"
        f"with open({str(place)!r}, {mode!r}, buffering=0) as out:\n"
        "    for part in parts:\n"
        "        out.write(bytes.fromhex(part))\n"
        f"        time.sleep({pause})\n"
    )
    child = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE)
    assert child.stdin is not None
    child.stdin.write(json.dumps([part.hex() for part in parts]).encode())
    child.stdin.close()
    try:
        yield
    finally:
        child.kill()
        child.wait()


def pieces(data: bytes, sizes: list[int]) -> list[bytes]:
    """Cut data into pieces of these sizes in turn, in the middle of records as it happens."""
    found, at, turn = [], 0, 0
    while at < len(data):
        size = sizes[turn % len(sizes)]
        found.append(data[at : at + size])
        at, turn = at + size, turn + 1
    return found


# --- the same as from a file


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("kind", ["file", "fifo"])
def test_a_stream_that_grows_gives_the_bytes_of_a_file_that_is_there(
    tmp_path: Path, stream: bytes, direct: Any, kind: str, workers: int
) -> None:
    place = tmp_path / "stream"
    if kind == "fifo":
        os.mkfifo(place)
    else:
        place.touch()
    with written(place, pieces(stream, [1, 39, 3000, 17, 5000])):
        done, files = follow(tmp_path, place, workers=workers, isolated=workers > 1)
    assert (done.ending, done.error) == (MARKER, None)
    result, expected = direct
    assert {name: file.read_bytes() for name, file in files.items()} == expected
    assert done.result.ledger[0]["read"] == 300 == done.result.ledger[0]["written"]
    assert done.result.histograms.to_bytes() == result.histograms.to_bytes()


def test_a_stream_that_is_complete_is_read_to_its_end(tmp_path: Path, stream: bytes, direct: Any) -> None:
    (tmp_path / "stream").write_bytes(stream)
    for batch_events in (7, 1000):
        _, files = follow(tmp_path, tmp_path / "stream", batch_events=batch_events)
        assert {name: file.read_bytes() for name, file in files.items()} == direct[1]


def test_conditions_change_where_they_do_in_a_file(tmp_path: Path, stream: bytes) -> None:
    payloads = [toy.gain_payload(1.25), toy.gain_payload(1.5)]
    ends = (Interval.sections("A", 7, 0, 4), Interval.sections("A", 7, 5, 99))
    parts = [("Gain", end, payload.id) for end, payload in zip(ends, payloads, strict=True)]
    snapshot = Snapshot("g", parts, {payload.id: payload for payload in payloads})
    raw = toy.write_raw(tmp_path / "raw.json", "A", 7, {"event": toy.grid(range(1, 11), 30)})
    files = {name: tmp_path / f"{name}.root" for name in ("dst", "loud")}
    run_path(
        toy.calibrated_path(), toy.ToyReader(raw, "A", 7), Interval.sections("A", 7, 0, 99),
        banks=toy.BANKS, outputs=files, lineage=lineage, snapshot=snapshot,
    )  # fmt: skip
    (tmp_path / "stream").write_bytes(stream)
    for workers in (1, 2):
        _, found = follow(
            tmp_path, tmp_path / "stream", toy.calibrated_path(), snapshot=snapshot, workers=workers
        )
        for name, file in files.items():
            assert found[name].read_bytes() == file.read_bytes()
    early = Snapshot("g", parts[:1], {payloads[0].id: payloads[0]})
    with pytest.raises(NotCoveredError):
        follow(tmp_path, tmp_path / "stream", toy.calibrated_path(), snapshot=early)


@pytest.mark.parametrize("how", ["segfault", "loop", "raise"])
def test_a_poisoned_record_of_a_stream_is_quarantined(tmp_path: Path, stream: bytes, how: str) -> None:
    (tmp_path / "stream").write_bytes(stream)
    path = toy.events_path(toy.Trouble(how=how, section=9))
    limits = Limits(event_s=0.5 if how == "loop" else 60.0)
    done, files = follow(tmp_path, tmp_path / "stream", path, limits=limits)
    (bad,) = done.result.quarantined
    assert (bad["key"], bad["module"]) == ("A:7:9:4", "Trouble")
    assert done.result.ledger[0]["written"] == 299
    assert validate_file(files["dst"])["valid"]


# --- what may come to pass


def test_a_cut_record_is_waited_for(tmp_path: Path, stream: bytes) -> None:
    places = cuts(stream)
    place = tmp_path / "stream"
    place.write_bytes(stream[: places[101] + 21])  # the header, 100 records, and half a head
    feed = Feed(place)
    told: list[int] = []

    def tell(number: int, _of: int | None) -> None:
        told.append(number)
        if number == 100:  # the rest comes only when all that had come was worked on
            with place.open("ab") as out:
                out.write(stream[places[101] + 21 :])

    done = follow_path(toy.events_path(), feed.open(), banks=toy.BANKS, batch_events=40, progress=tell)
    feed.close()
    assert done.ending == MARKER and done.result.statistics["records"] == 300
    assert 100 in told


@pytest.mark.parametrize("at", ["magic", "length", "key", "checksum", "body"])
def test_a_damaged_record_is_an_error_by_name_and_leaves_sound_outputs(
    tmp_path: Path, stream: bytes, at: str
) -> None:
    places = cuts(stream)
    offset = {"magic": 1, "length": 9, "key": 21, "checksum": 33, "body": HEAD + 5}[at]
    damaged = bytearray(stream)
    damaged[places[51] + offset] ^= 16
    (tmp_path / "stream").write_bytes(damaged)
    done, files = follow(tmp_path, tmp_path / "stream")
    assert isinstance(done.error, StreamError)
    assert f"stream, frame 51 at byte {places[51]}: " in done.error.message
    assert ("checksum of record 7:2:20 is wrong" if offset > 30 else "head is damaged") in done.error.message
    assert validate_file(files["dst"])["valid"]
    assert read_metadata(files["dst"]).events == 50


def without_end(data: bytes) -> bytes:
    return data[: cuts(data)[-2]]


def test_a_pipe_that_closes_without_an_end_marker_is_told(tmp_path: Path, stream: bytes) -> None:
    for name, data, error in (
        ("whole", without_end(stream), None),
        ("cut", without_end(stream)[:-3], "frame 300 at byte"),
    ):
        os.mkfifo(tmp_path / name)
        with written(tmp_path / name, [data], pause=0):
            done, files = follow(tmp_path, tmp_path / name)
        assert done.ending == CLOSED
        assert (done.error is None) if error is None else (error in str(done.error))
        assert validate_file(files["dst"])["valid"]
        assert read_metadata(files["dst"]).events == (300 if error is None else 299)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda place: os.truncate(place, 1000), "the file became shorter: it has 1000 bytes and had"),
        (lambda place: place.rename(place.with_suffix(".1")), "was moved, removed or replaced before"),
        (lambda place: place.unlink(), "was moved, removed or replaced before"),
        (lambda place: place.with_suffix(".new").replace(place), "was moved, removed or replaced before"),
    ],
    ids=["truncated", "moved", "removed", "replaced"],
)
def test_a_file_that_is_taken_away_ends_the_stream_with_sound_outputs(
    tmp_path: Path, stream: bytes, change: Any, message: str
) -> None:
    place = tmp_path / "stream"
    place.write_bytes(stream[: cuts(stream)[101] + 7])
    place.with_suffix(".new").write_bytes(stream)
    changed: list[int] = []

    def change_once(done: int, of: int | None) -> None:
        if done == 100 and not changed:
            changed.append(done)
            change(place)

    done, files = follow(tmp_path, place, progress=change_once)
    assert isinstance(done.error, StreamError)
    assert message in done.error.message and "frame 101 at byte" in done.error.message
    assert validate_file(files["dst"])["valid"] and read_metadata(files["dst"]).events == 100


def test_a_file_that_was_moved_is_read_to_its_end_marker(tmp_path: Path, stream: bytes, direct: Any) -> None:
    place = tmp_path / "stream"
    place.write_bytes(stream[: cuts(stream)[101] + 7])

    def move_and_go_on(done: int, of: int | None) -> None:
        if done == 100:
            place.rename(tmp_path / "moved")
            with (tmp_path / "moved").open("ab") as out:
                out.write(stream[cuts(stream)[101] + 7 :])

    done, files = follow(tmp_path, place, progress=move_and_go_on)
    assert (done.ending, done.error) == (MARKER, None)
    assert {name: file.read_bytes() for name, file in files.items()} == direct[1]


def test_records_out_of_order_twice_or_miscounted_are_errors(tmp_path: Path, stream: bytes) -> None:
    places = cuts(stream)
    first, second = stream[places[1] : places[2]], stream[places[2] : places[3]]
    head = stream[: places[1]]
    for name, data, message in (
        ("twice", head + first + first, "record (7, 1, 0) after (7, 1, 0): keys must rise"),
        ("order", head + second + first, "record (7, 1, 0) after (7, 1, 1): keys must rise"),
        ("header", head + head, "a second header"),
        ("count", head + first + packed(b"E", b"", event=2), "end marker counts 2 records, 1 came"),
    ):
        (tmp_path / name).write_bytes(data)
        done, _ = follow(tmp_path, tmp_path / name)
        assert message in str(done.error)
    (tmp_path / "headless").write_bytes(first)
    with pytest.raises(StreamError, match="a stream begins with a header"):
        follow(tmp_path, tmp_path / "headless")
    (tmp_path / "newer").write_bytes(packed(b"H", b'{"format": 2}'))
    with pytest.raises(StreamError, match="its format is 2, not 1"):
        follow(tmp_path, tmp_path / "newer")
    with pytest.raises(StorageError, match="cannot be followed"):
        Feed(tmp_path / "nothing")


def test_a_body_that_does_not_hold_what_the_header_declares_is_named(tmp_path: Path, stream: bytes) -> None:
    head = stream[: cuts(stream)[1]]
    for body, message in ((b"\0" * 3, "shorter than its banks say"), (b"\0" * 99, "bytes too many")):
        (tmp_path / "stream").write_bytes(head + packed(b"R", body, 7, 1, 0) + packed(b"E", b"", event=1))
        with pytest.raises(FormatError, match=f"among records A:7:1:0 to A:7:1:0 a record .*{message}"):
            follow(tmp_path, tmp_path / "stream")


# --- the writer


def test_the_writer_takes_columns_of_single_records() -> None:
    out = io.BytesIO()
    writer = EventStream(out, "A", "event", BANKS)
    samples = Jagged.from_lists([[1, 2], [], [3]], "u2")
    hits = {"channel": [1, 2, 3], "charge": [0.5, 1.5, 2.5], "samples": samples}
    writer.write(7, 1, 3, {"Header": {"time": 2.5, "energy": 1.0}, "Hit": hits})
    nothing = {"channel": [], "charge": [], "samples": Jagged.from_lists([], "u2")}
    writer.write(7, 1, 4, {"Header": {"time": [3.5], "energy": [0.0]}, "Hit": nothing})
    with pytest.raises(UsageError, match=r"record \(7, 1, 4\) comes after \(7, 1, 4\)"):
        writer.write(7, 1, 4, {"Header": {"time": 3.5, "energy": 0.0}, "Hit": nothing})
    with pytest.raises(ModuleError, match="lacks its column 'energy'"):
        writer.write(7, 1, 5, {"Header": {"time": 3.5}, "Hit": nothing})
    data = out.getvalue()
    frames = [frame for frame in (parsed(data, at) for at in cuts(data)[1:-1]) if frame is not None]
    tables = decoded([frame.body for frame in frames], BANKS, ["Header", "Hit"])
    assert tables["Header"].time.tolist() == [2.5, 3.5]
    assert tables["Hit"].counts.tolist() == [3, 0]
    assert tables["Hit"].charge.tolist() == [0.5, 1.5, 2.5]
    assert tables["Hit"].samples.tolist() == [[1, 2], [], [3]]
    assert BankSet.from_document(json.loads(parsed(data, 0).body)["banks"]) == BANKS  # type: ignore[union-attr]


# --- the command


STEERING = "from support import toy\nbanks = toy.BANKS\npath = toy.events_path()\n"


class Command:
    """``beamwright process --follow`` as a process of its own."""

    def __init__(self, folder: Path, *arguments: str, stdin: Any = None) -> None:
        (folder / "steering.py").write_text(STEERING)
        script = "import sys; from beamwright.cli.main import run; sys.exit(run(sys.argv[1:]))"
        fixed = ["process", "steering.py", "--follow", "-o", "dst=dst.root", "--json", *arguments]
        paths = os.pathsep.join([str(Path(toy.__file__).parents[1]), *filter(None, sys.path)])
        self.process = subprocess.Popen(
            [sys.executable, "-c", script, *fixed], cwd=folder, stdin=stdin, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, env=os.environ | {"PYTHONPATH": paths},
        )  # fmt: skip

    def end(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=240)
        return self.process.returncode, out.decode(), err.decode()


def test_standard_input_is_followed(tmp_path: Path, stream: bytes) -> None:
    command = Command(tmp_path, "-i", "-", "--workers", "2", stdin=subprocess.PIPE)
    assert command.process.stdin is not None
    command.process.stdin.write(stream)
    code, out, err = command.end()
    assert code == 0, err
    document = json.loads(out)
    assert (document["ending"], document["ledger"][0]["written"]) == ("end marker", 300)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_a_valid_closed_output(tmp_path: Path, stream: bytes, number: int) -> None:
    places = cuts(stream)
    (tmp_path / "stream").write_bytes(stream[: places[201] + 10])
    command = Command(tmp_path, "-i", "stream", "--batch-events", "50")
    wait_for(lambda: command.process.poll() is not None or (tmp_path / "dst.root").exists())
    command.process.send_signal(number)
    code, out, err = command.end()
    assert code == 0, err
    document = json.loads(out)
    assert (document["ending"], document["ledger"][0]["written"]) == (STOPPED, 200)
    assert validate_file(tmp_path / "dst.root")["valid"]


def test_a_damaged_stream_ends_the_command_with_its_name(tmp_path: Path, stream: bytes) -> None:
    damaged = bytearray(stream)
    damaged[cuts(stream)[101] + HEAD] ^= 1
    (tmp_path / "stream").write_bytes(damaged)
    code, _, err = Command(tmp_path, "-i", "stream").end()
    assert code == 4
    assert "frame 101 at byte" in err
    assert validate_file(tmp_path / "dst.root")["valid"]


def test_following_takes_one_input_and_all_of_it(tmp_path: Path) -> None:
    code, _, err = Command(tmp_path, "-i", "a", "-i", "b").end()
    assert code == 2 and "takes one input" in err


def test_what_is_no_event_stream_is_refused(tmp_path: Path) -> None:
    (tmp_path / "dst.root").write_bytes(b"root" + bytes(200))
    with pytest.raises(StreamError, match="dst.root is no event stream") as told:
        follow(tmp_path, tmp_path / "dst.root")
    assert "without --follow" in str(told.value.hint)
