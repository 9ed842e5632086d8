"""How a worker's result gets to the writer: our socket of raw arrays, shared memory, Arrow's IPC.

Each side sends the same batch from a forked process to this one, which ends with arrays of its own.
"""

from __future__ import annotations

import mmap
import os
import socket
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from harness import Figure, arguments, report

from beamwright.event.banks import BankSet
from beamwright.event.batch import Batch
from beamwright.event.engine import Result
from beamwright.event.table import Table, offsets_of
from beamwright.event.transport import receive_outcome, send_result

os.environ.setdefault("JE_ARROW_MALLOC_CONF", "background_thread:false")

BENCH = "event/transport"
NAMES = ("t", "charge", "x", "y", "z")
BANKS = BankSet.from_document({"Hit": {"columns": {name: {"type": "f4"} for name in NAMES}}})
TIMES = 20


def sample(n: int) -> Batch:
    """Return n events with 60 hits on average."""
    rng = np.random.default_rng(1)
    counts = rng.poisson(60, n)
    batch = Batch("event", "A", 1, np.zeros(n), np.arange(n), banks=BANKS)
    hits = {name: rng.normal(size=int(counts.sum())).astype("f4") for name in NAMES}
    batch["Hit"] = Table("Hit", offsets_of(counts), hits)
    return batch


def arrays(batch: Batch) -> list[np.ndarray]:
    """Return all arrays of a batch."""
    hits = batch["Hit"]
    return [batch.section, batch.event, hits.offsets, *hits.columns.values()]


def by_socket(batch: Batch, ours: socket.socket, theirs: socket.socket) -> tuple[Callable[[], object], ...]:
    """Return what sends and what receives in our way."""
    result = Result(outputs={"dst": batch})
    return (lambda: send_result(theirs, result)), (lambda: receive_outcome(ours, BANKS).outputs["dst"])  # type: ignore[union-attr]


def by_memory(batch: Batch, ours: socket.socket, theirs: socket.socket) -> tuple[Callable[[], object], ...]:
    """Return what puts arrays into shared memory and what copies them out, taking turns by a socket."""
    parts = arrays(batch)
    room = mmap.mmap(-1, sum(part.nbytes + 64 for part in parts))
    places = np.cumsum([0, *(part.nbytes + -part.nbytes % 64 for part in parts)]).tolist()

    def send() -> None:
        for part, place in zip(parts, places, strict=False):
            np.frombuffer(room, part.dtype, len(part), place)[:] = part
        theirs.sendall(b"x")
        theirs.recv(1)

    def receive() -> object:
        ours.recv(1)
        found = [
            np.frombuffer(room, p.dtype, len(p), at).copy() for p, at in zip(parts, places, strict=False)
        ]
        ours.sendall(b"y")
        return found

    return send, receive


def by_arrow(batch: Batch, ours: socket.socket, theirs: socket.socket) -> tuple[Callable[[], object], ...]:
    """Return what writes and what reads an Arrow IPC stream."""
    import pyarrow as pa

    hits = batch["Hit"]
    rows = pa.StructArray.from_arrays(
        [pa.array(column) for column in hits.columns.values()], list(hits.columns)
    )
    lists = pa.LargeListArray.from_arrays(pa.array(hits.offsets), rows)
    table = pa.record_batch(
        [pa.array(batch.section), pa.array(batch.event), lists], ["section", "event", "Hit"]
    )
    sink, source = theirs.makefile("wb"), ours.makefile("rb")

    def send() -> None:
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_batch(table)
        sink.flush()

    return send, lambda: pa.ipc.open_stream(source).read_all()


def rate(make: Callable[..., tuple[Callable[[], object], ...]], batch: Batch) -> float:
    """Return the megabytes per second of one way."""
    ours, theirs = socket.socketpair()
    send, receive = make(batch, ours, theirs)
    pid = os.fork()
    if not pid:
        ours.close()
        for _ in range(TIMES):
            send()
        os._exit(0)
    receive()
    begun = time.perf_counter()
    for _ in range(TIMES - 1):
        receive()
    spent = time.perf_counter() - begun
    os.waitpid(pid, 0)
    return sum(part.nbytes for part in arrays(batch)) * (TIMES - 1) / spent / 1e6


def main() -> None:
    """Measure at N and 10 N events per batch."""
    options = arguments(__doc__, 1_000)
    figures = []
    for n in (options.events, 10 * options.events):
        batch = sample(n)
        ways = {"shared memory": by_memory, "Arrow IPC": by_arrow}
        rounds = [[rate(make, batch) for make in (by_socket, *ways.values())] for _ in range(options.repeat)]
        own, *others = (statistics.median(column) for column in zip(*rounds, strict=True))
        figures += [
            Figure(BENCH, "a worker's batch to the writer", n, own, peer, name, "MB/s", own / peer, None)
            for name, peer in zip(ways, others, strict=True)
        ]
    report(figures, options.json)


if __name__ == "__main__":
    main()
