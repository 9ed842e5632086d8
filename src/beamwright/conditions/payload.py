"""Conditions payloads: canonical bytes whose sha256 is their name. No database here: workers use this."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, cast, get_args

import numpy as np

from beamwright.core import bundle
from beamwright.core.canonical import canonical_json, sha256_hex
from beamwright.core.errors import ConditionsError, FormatError, nearest
from beamwright.core.histogram import HistogramSet

Kind = Literal["arrays", "json", "histogram", "bytes"]
KINDS: tuple[str, ...] = get_args(Kind)

Arrays = dict[str, bundle.Array]


@dataclass(frozen=True)
class Payload:
    """Constants as bytes of a declared kind; equal content has equal bytes and one id."""

    kind: Kind
    data: bytes

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConditionsError(f"{self.kind!r} is no kind of payload", hint=nearest(self.kind, KINDS))

    @classmethod
    def arrays(cls, arrays: Mapping[str, Any], document: Any = None) -> Payload:
        """Make a payload of named arrays (boolean, integer or float) and a JSON document."""
        return cls("arrays", bundle.pack(arrays, document))

    @classmethod
    def json(cls, document: Any) -> Payload:
        """Make a payload of a JSON document.

        Raises: ConditionsError for values that JSON does not hold, such as NaN.
        """
        return cls("json", _canonical(document))

    @classmethod
    def histograms(cls, histograms: HistogramSet) -> Payload:
        """Make a payload of histograms."""
        return cls("histogram", histograms.to_bytes())

    @classmethod
    def opaque(cls, data: bytes) -> Payload:
        """Make a payload of bytes whose meaning the experiment knows."""
        return cls("bytes", data)

    @classmethod
    def received(cls, kind: str, data: bytes) -> Payload:
        """Take a payload that came from elsewhere; what is not in canonical form is refused.

        Raises: ConditionsError, FormatError.
        """
        payload = cls(cast(Kind, kind), data)
        if payload._repacked() != data:
            hint = "write it with Payload.arrays, Payload.json or Payload.histograms"
            raise FormatError(f"a payload of kind {kind} is not in canonical form", hint=hint)
        return payload

    @cached_property
    def id(self) -> str:
        """The sha256 over kind and bytes."""
        return sha256_hex(self.kind.encode() + b"\0" + self.data)

    def unpack(self) -> tuple[Arrays, Any]:
        """Return (arrays by name, document); ``bytes`` give neither.

        Raises: FormatError.
        """
        if self.kind in ("arrays", "histogram"):
            return bundle.unpack(self.data, f"payload {self.id[:12]}")
        return {}, self._document() if self.kind == "json" else None

    def _document(self) -> Any:
        try:
            return json.loads(self.data)
        except ValueError as error:
            raise FormatError(
                f"payload {self.id[:12]} is no JSON: {error}", hint="fetch or make it again"
            ) from error

    def _repacked(self) -> bytes:
        arrays, document = self.unpack()
        if self.kind == "bytes":
            return self.data
        return _canonical(document) if self.kind == "json" else bundle.pack(arrays, document)


def shift(before: Payload | None, after: Payload) -> float:
    """Return the largest change of any number; infinite where the arrays are not the same ones."""
    if before is None:
        return float("inf")
    if before.id == after.id:
        return 0.0
    old, new = before.unpack()[0], after.unpack()[0]
    if old.keys() != new.keys() or any(old[name].shape != new[name].shape for name in old):
        return float("inf")
    changes = [np.abs(new[n].astype(float) - old[n].astype(float)) for n in old if old[n].size]
    return max((float(np.max(change)) for change in changes), default=0.0)


def _canonical(document: Any) -> bytes:
    try:
        return canonical_json(document)
    except (ValueError, TypeError) as error:
        raise ConditionsError(
            f"the document cannot be stored: {error}", hint="leave out NaN and infinity"
        ) from error
