"""Reading and checking ordinary records in one pass over their bytes.

What this does not take, whether wrong or only unusual, goes the long way in ``catalog.records``, which takes
all that is right and says of the rest what is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic_core import SchemaValidator, ValidationError
from pydantic_core import core_schema as shape

from beamwright.catalog.metadata import MAX_DOCUMENT, MAX_INDEXED, MAX_TEXT, Key, Kind
from beamwright.core.did import NAME, SCOPE

_WORD = r"^[A-Za-z0-9][A-Za-z0-9_.+=-]{0,63}$"
_BIG = 2**63 - 1


class QuickFiles:
    """Takes the bytes of an ordinary file's record apart."""

    def __init__(self, kinds: Mapping[str, Kind]) -> None:
        did = _text(f"^{SCOPE}:{NAME}$")
        word = _text(_WORD)
        place = _table({"endpoint": (word, True), "path": (_text(r"^[!-~][ -~]{0,998}$"), True)})
        said = _table({name: (_kind(kind), False) for name, kind in kinds.items()})
        self._validator = SchemaValidator(
            _table(
                {
                    "name": (did, True),
                    "size": (shape.int_schema(strict=True, ge=0, le=_BIG), True),
                    "sha256": (_text("^[0-9a-f]{64}$"), True),
                    "adler32": (_text("^[0-9a-f]{8}$"), True),
                    "tier": (word, True),
                    "kind": (word, False),
                    "uuid": (word, False),
                    "replicas": (shape.list_schema(place, strict=True, max_length=100), False),
                    "metadata": (said, False),
                }
            )
        )

    def read(self, line: bytes) -> dict[str, Any] | None:
        """Return a record's members, or None where it is not an ordinary one."""
        try:
            found: dict[str, Any] = self._validator.validate_json(line)
        except ValidationError:
            return None
        name = found["name"]
        return None if ".." in name or "//" in name else found


def _kind(kind: Kind) -> Any:
    return _table({key.name: (_value(key, len(kind.keys)), key.is_required) for key in kind.keys.values()})


def _value(key: Key, keys: int) -> Any:
    if key.type == "int":
        return shape.int_schema(strict=True, ge=-_BIG - 1, le=_BIG)
    if key.type == "bool":
        return shape.bool_schema(strict=True)
    if key.type in ("float", "time"):
        return shape.float_schema(strict=True, allow_inf_nan=False, gt=-1e11, lt=1e11)
    most = min(MAX_INDEXED if key.is_indexed else MAX_TEXT, MAX_DOCUMENT // (8 * keys))
    return _text(r"^[^\x00]*$", most)


def _text(pattern: str, most: int | None = None) -> Any:
    return shape.str_schema(strict=True, pattern=pattern, max_length=most)


def _table(members: Mapping[str, tuple[Any, bool]]) -> Any:
    fields = {name: shape.typed_dict_field(of, required=needed) for name, (of, needed) in members.items()}
    return shape.typed_dict_schema(fields, extra_behavior="forbid", strict=True)
