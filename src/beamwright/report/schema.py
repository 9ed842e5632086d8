"""The schema of the document: what its members are, and which may differ between equal productions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from importlib import resources
from typing import Any

from beamwright.core.errors import FormatError

Schema = dict[str, Any]
_TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": (list, tuple),
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
}


@cache
def schema() -> Schema:
    """Return the JSON schema; members marked ``"volatile": true`` may differ between equal productions."""
    text = resources.files("beamwright.report").joinpath("schema.json").read_text()
    loaded: Schema = json.loads(text)
    return loaded


def volatile_members(node: Schema | None = None, path: str = "") -> list[str]:
    """Return the paths of the volatile members; ``[]`` stands for each item, ``*`` for each member."""
    node = _resolved(schema() if node is None else node)
    found = []
    for name, child, member in _children(node):
        where = f"{path}.{name}" if path and member else f"{path}{name}"
        found += [where] if child.get("volatile") else volatile_members(child, where)
    return found


def strip_volatile(document: Any, node: Schema | None = None) -> Any:
    """Return the document without its volatile members."""
    node = _resolved(schema() if node is None else node)
    if isinstance(document, dict):
        kept = {name: _member(node, name) for name in document}
        return {
            name: strip_volatile(document[name], kept[name])
            for name in document
            if not kept[name].get("volatile")
        }
    if isinstance(document, list | tuple):
        return [strip_volatile(item, node.get("items", {})) for item in document]
    return document


def check(document: Any) -> None:
    """Refuse a document that the schema does not describe.

    Raises: FormatError, naming the first member that is wrong.
    """
    problem = next(_problems(document, schema(), "document"), None)
    if problem is not None:
        raise FormatError(
            f"the document does not follow its schema: {problem}",
            hint="change report/schema.json with the document",
        )


def _resolved(node: Schema) -> Schema:
    reference = node.get("$ref")
    if reference is None:
        return node
    resolved: Schema = schema()["$defs"][reference.removeprefix("#/$defs/")]
    return resolved


def _children(node: Schema) -> Iterator[tuple[str, Schema, bool]]:
    for name, child in node.get("properties", {}).items():
        yield name, child, True
    if isinstance(node.get("additionalProperties"), dict):
        yield "*", node["additionalProperties"], True
    if "items" in node:
        yield "[]", node["items"], False


def _member(node: Schema, name: str) -> Schema:
    other = node.get("additionalProperties")
    found: Schema = node.get("properties", {}).get(name, other if isinstance(other, dict) else {})
    return found


def _problems(thing: Any, node: Schema, path: str) -> Iterator[str]:
    node = _resolved(node)
    if "type" in node and not _is_a(thing, node["type"]):
        yield f"{path} is {type(thing).__name__}, not {node['type']}"
    elif isinstance(thing, dict):
        yield from _object_problems(thing, node, path)
    elif isinstance(thing, list | tuple):
        for number, item in enumerate(thing):
            prefix = node.get("prefixItems", [])
            yield from _problems(
                item, prefix[number] if number < len(prefix) else node.get("items", {}), f"{path}[{number}]"
            )


def _object_problems(thing: dict[str, Any], node: Schema, path: str) -> Iterator[str]:
    for name in node.get("required", ()):
        if name not in thing:
            yield f"{path}.{name} is missing"
    for name, value in thing.items():
        if node.get("additionalProperties") is False and name not in node["properties"]:
            yield f"{path}.{name} is not described"
        else:
            yield from _problems(value, _member(node, name), f"{path}.{name}")


def _is_a(thing: Any, wanted: str | list[str]) -> bool:
    names = [wanted] if isinstance(wanted, str) else wanted
    if isinstance(thing, bool):
        return "boolean" in names
    return any(isinstance(thing, _TYPES[name]) for name in names)
