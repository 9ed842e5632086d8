"""Markup as escaped strings: elements are built by calls, so nothing unescaped can slip in."""

from __future__ import annotations

from html import escape
from typing import Any


class Markup(str):
    """Text that is markup already."""

    __slots__ = ()


Content = Any


def text(content: Content) -> Markup:
    """Return content as markup: strings are escaped, None is nothing, sequences are joined."""
    if content is None or content is False:
        return Markup("")
    if isinstance(content, Markup):
        return content
    if isinstance(content, list | tuple):
        return Markup("".join(text(part) for part in content))
    return Markup(escape(str(content)))


def tag(name: str, *content: Content, **attributes: Any) -> Markup:
    """Return an element; ``class_`` is class, other underscores are hyphens, None and False leave out."""
    parts = [name]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        plain = key.rstrip("_").replace("_", "-")
        parts.append(plain if value is True else f'{plain}="{escape(_number(value), quote=True)}"')
    return Markup(f"<{' '.join(parts)}>{text(content)}</{name}>")


def _number(value: Any) -> str:
    # Two decimals are a hundredth of a pixel, and keep the file small and its bytes the same everywhere.
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
