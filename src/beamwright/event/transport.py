"""How tasks and results travel between processes: a JSON header, then the bytes of the arrays."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from beamwright.core.errors import BeamwrightError
from beamwright.event.banks import BankSet
from beamwright.event.batch import Batch
from beamwright.event.engine import Failure, Result
from beamwright.event.plan import Stage, Task
from beamwright.event.table import Array, Jagged, Table, Values

_HEAD = struct.Struct("<QQ")
_TASK = struct.Struct("<8q")
_PIECES = 512  # buffers handed to one sendmsg; the system's limit is 1024


class ConnectionLost(Exception):
    """The other side is gone."""


class Packer:
    """Collects arrays and answers with their numbers."""

    def __init__(self) -> None:
        self.arrays: list[Array] = []

    def __call__(self, array: Array) -> int:
        self.arrays.append(np.ascontiguousarray(array))
        return len(self.arrays) - 1


def send_task(connection: socket.socket, task: Task, parcel: bytes = b"") -> None:
    """Send a task, and what it needs beside the files."""
    connection.sendall(_TASK.pack(*task, len(parcel)) + parcel)


def receive_task(connection: socket.socket) -> tuple[Task, bytes]:
    """Wait for a task.

    Raises: ConnectionLost.
    """
    head = _TASK.unpack(_receive(connection, _TASK.size).tobytes())
    number, start, stop, stage, first, last, tries, size = head
    parcel = _receive(connection, size).tobytes() if size else b""
    return Task(number, start, stop, Stage(stage), first, last, tries), parcel


def send_result(connection: socket.socket, result: Result) -> None:
    """Send what a task left."""
    pack = Packer()
    document = {
        "kind": "result",
        "outputs": {stream: _pack_batch(batch, pack) for stream, batch in result.outputs.items()},
        "filtered": result.filtered,
        "loaded": result.loaded,
        "created": [pack(result.created_section), pack(result.created_event)],
        "deposits": {
            name: {k: pack(a) for k, a in arrays.items()} for name, arrays in result.deposits.items()
        },
        "calls": result.calls,
    }
    _send(connection, document, pack.arrays)


def send_failure(connection: socket.socket, failure: Failure) -> None:
    """Send how a task failed."""
    document = {
        "kind": "failure",
        "step": failure.step,
        "error": failure.error,
        "traceback": failure.traceback,
    }
    _send(connection, document, [])


def send_fatal(connection: socket.socket, error: BaseException) -> None:
    """Send an error that ends the pass."""
    if isinstance(error, BeamwrightError):
        document = {"kind": "fatal", "type": type(error).__name__, **error.document()}
    else:
        document = {
            "kind": "fatal",
            "type": "",
            "message": f"{type(error).__name__}: {error}",
            "hint": "",
            "data": {},
        }
    _send(connection, document, [])


def receive_outcome(connection: socket.socket, banks: BankSet) -> Result | Failure:
    """Wait for what became of a task.

    Raises: ConnectionLost; the error of the other side where it ends the pass.
    """
    header, arrays = _receive_message(connection)
    if header["kind"] == "result":
        return _unpack_result(header, arrays, banks)
    if header["kind"] == "failure":
        return Failure(header["step"], header["error"], header["traceback"])
    raise rebuilt_error(header)


def rebuilt_error(document: dict[str, Any]) -> BeamwrightError:
    """Make an error of the class that it had in the other process."""
    kind = _classes().get(document["type"], BeamwrightError)
    error = kind.__new__(kind)
    BeamwrightError.__init__(error, document["message"], hint=document["hint"], **document["data"])
    return error


def _classes() -> dict[str, type[BeamwrightError]]:
    found, queue = {}, [BeamwrightError]
    while queue:
        kind = queue.pop()
        found[kind.__name__] = kind
        queue += kind.__subclasses__()
    return found


def _unpack_result(header: dict[str, Any], arrays: Sequence[Array], banks: BankSet) -> Result:
    section, event = header["created"]
    return Result(
        {stream: _unpack_batch(document, arrays, banks) for stream, document in header["outputs"].items()},
        header["filtered"],
        header["loaded"],
        arrays[section],
        arrays[event],
        {name: {k: arrays[i] for k, i in parts.items()} for name, parts in header["deposits"].items()},
        [(step, hook, records, ns, grown) for step, hook, records, ns, grown in header["calls"]],
    )


def _pack_batch(batch: Batch, pack: Packer) -> dict[str, Any]:
    keys: list[Array] = [batch.section, batch.event]
    if batch.parent_section is not None and batch.parent_event is not None:
        keys += [batch.parent_section, batch.parent_event]
    return {
        "record": batch.record, "series": batch.series, "run": batch.run, "keys": [pack(key) for key in keys],
        "tables": {name: _pack_table(table, pack) for name, table in batch.tables.items()},
    }  # fmt: skip


def _unpack_batch(document: dict[str, Any], arrays: Sequence[Array], banks: BankSet) -> Batch:
    keys = [arrays[i] for i in document["keys"]]
    batch = Batch(document["record"], document["series"], document["run"], keys[0], keys[1], banks=banks)
    if len(keys) == 4:
        batch.parent_section, batch.parent_event = keys[2], keys[3]
    batch.tables = {n: _unpack_table(n, doc, arrays, banks) for n, doc in document["tables"].items()}
    return batch


def _pack_table(table: Table, pack: Packer) -> list[Any]:
    columns = {name: _pack_values(values, pack) for name, values in table.columns.items()}
    return [pack(table.offsets), columns]


def _pack_values(values: Values, pack: Packer) -> Any:
    if isinstance(values, Jagged):
        return [pack(values.offsets), _pack_values(values.values, pack)]
    return pack(values)


def _unpack_table(name: str, document: list[Any], arrays: Sequence[Array], banks: BankSet) -> Table:
    offsets, columns = document
    values = {key: _unpack_values(packed, arrays) for key, packed in columns.items()}
    return Table._made(banks[name], arrays[offsets], values)


def _unpack_values(packed: Any, arrays: Sequence[Array]) -> Values:
    if isinstance(packed, list):
        return Jagged(arrays[packed[0]], _unpack_values(packed[1], arrays))
    found: Array = arrays[packed]
    return found


def _send(connection: socket.socket, document: dict[str, Any], arrays: Sequence[Array]) -> None:
    document["arrays"] = [[array.dtype.str, list(array.shape)] for array in arrays]
    header = json.dumps(document).encode()
    header += b" " * (-len(header) % 8)
    body = sum(array.nbytes + -array.nbytes % 8 for array in arrays)
    parts: list[memoryview] = [memoryview(_HEAD.pack(len(header), body)), memoryview(header)]
    for array in arrays:
        if array.nbytes:
            parts += [array.reshape(-1).view(np.uint8).data, memoryview(bytes(-array.nbytes % 8))]
    try:
        _send_parts(connection, [part for part in parts if part.nbytes])
    except (BrokenPipeError, ConnectionResetError) as error:
        raise ConnectionLost from error


def _send_parts(connection: socket.socket, parts: list[memoryview]) -> None:
    first = 0
    while first < len(parts):
        sent = connection.sendmsg(parts[first : first + _PIECES])
        while first < len(parts) and sent >= parts[first].nbytes:
            sent -= parts[first].nbytes
            first += 1
        if sent:
            parts[first] = parts[first][sent:]


def _receive_message(connection: socket.socket) -> tuple[dict[str, Any], list[Array]]:
    header_size, body_size = _HEAD.unpack(_receive(connection, _HEAD.size).tobytes())
    header = json.loads(_receive(connection, header_size).tobytes())
    body = _receive(connection, body_size)
    arrays, offset = [], 0
    for dtype, shape in header["arrays"]:
        size = np.dtype(dtype).itemsize * int(np.prod(shape, dtype=np.int64))
        arrays.append(body[offset : offset + size].view(dtype).reshape(shape))
        offset += size + -size % 8
    return header, arrays


def _receive(connection: socket.socket, size: int) -> Array:
    buffer = np.empty(size, np.uint8)
    view, done = buffer.data, 0
    while done < size:
        try:
            count = connection.recv_into(view[done:])
        except (ConnectionResetError, BrokenPipeError) as error:
            raise ConnectionLost from error
        if count == 0:
            raise ConnectionLost
        done += count
    return buffer
