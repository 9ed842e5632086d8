from __future__ import annotations

import hashlib

import numpy as np
import pytest

from beamwright.conditions.payload import Payload
from beamwright.core.errors import ConditionsError, FormatError
from beamwright.core.histogram import Axis, HistogramSet


def test_the_id_is_the_hash_of_kind_and_bytes() -> None:
    payload = Payload.json({"b": 1, "a": [2.5]})
    assert payload.data == b'{"a":[2.5],"b":1}'
    assert payload.id == hashlib.sha256(b"json\0" + payload.data).hexdigest()
    assert Payload.opaque(payload.data).id != payload.id


def test_equal_arrays_have_one_id_whatever_their_order_in_memory() -> None:
    values = np.arange(6.0).reshape(2, 3)
    one = Payload.arrays({"x": values, "n": np.array([1, 2])}, {"unit": "ns"})
    other = Payload.arrays(
        {"n": np.array([1, 2]), "x": np.asfortranarray(values.astype(">f8"))}, {"unit": "ns"}
    )
    assert one.id == other.id
    arrays, document = one.unpack()
    assert np.array_equal(arrays["x"], values) and document == {"unit": "ns"}


def test_histograms_come_back() -> None:
    booked = HistogramSet()
    booked.book("t", Axis(3, 0, 3)).fill(np.array([0.5, 1.5, 1.5, 9.0]))
    payload = Payload.histograms(booked)
    assert HistogramSet.from_bytes(payload.data)["t"].values.tolist() == [1, 2, 0]
    assert payload.unpack()[0]["t"].tolist() == [0, 1, 2, 0, 1]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, b"x"])
def test_what_json_cannot_hold_is_refused(value: object) -> None:
    with pytest.raises(ConditionsError, match="cannot be stored"):
        Payload.json({"value": value})


def test_an_unknown_kind_suggests_the_nearest() -> None:
    with pytest.raises(ConditionsError, match="did you mean arrays"):
        Payload("array", b"")  # type: ignore[arg-type]


@pytest.mark.parametrize("data", [b'{"b":1, "a":2}', b'{"b":1,"a":2}', b"{"])
def test_received_bytes_that_are_not_canonical_are_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        Payload.received("json", data)


def test_received_bytes_in_canonical_form_are_taken() -> None:
    for payload in (Payload.json([1]), Payload.arrays({"x": np.array([1.0])}), Payload.opaque(b"\0")):
        assert Payload.received(payload.kind, payload.data) == payload


def test_truncated_arrays_are_named() -> None:
    data = Payload.arrays({"x": np.arange(100)}).data
    with pytest.raises(FormatError, match="truncated"):
        Payload("arrays", data[:-8]).unpack()
