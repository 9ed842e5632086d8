"""Pages put together by compiled loops: one pass over them in place of ten (extra ``numba``).

``use`` sets them in the place of the array operations of ``encoding``. To load numba takes half a second, so
that only kernels, which need it anyway, ask for it.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numba
import numpy as np

from beamwright.event.rntuple import encoding


def _jit(function: Callable[..., None]) -> Any:
    """Compile when first called; the code is kept between processes where there is a place for it."""
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:
        return numba.njit(nogil=True)(function)


def _join_two(planes, start, out) -> None:
    n = len(out)
    low, high = planes[0, start : start + n], planes[1, start : start + n]
    if len(low) < n:
        raise IndexError("a page has fewer elements")
    for i in range(n):
        out[i] = np.uint16(low[i]) | np.uint16(np.uint16(high[i]) << np.uint16(8))


def _join_four(planes, start, out) -> None:
    n = len(out)
    a, b = planes[0, start : start + n], planes[1, start : start + n]
    c, d = planes[2, start : start + n], planes[3, start : start + n]
    if len(a) < n:
        raise IndexError("a page has fewer elements")
    s, t, u = np.uint32(8), np.uint32(16), np.uint32(24)
    for i in range(n):
        out[i] = np.uint32(a[i]) | np.uint32(b[i]) << s | np.uint32(c[i]) << t | np.uint32(d[i]) << u


def _join_eight(planes, start, out) -> None:
    n = len(out)
    a, b = planes[0, start : start + n], planes[1, start : start + n]
    c, d = planes[2, start : start + n], planes[3, start : start + n]
    e, f = planes[4, start : start + n], planes[5, start : start + n]
    g, h = planes[6, start : start + n], planes[7, start : start + n]
    if len(a) < n:
        raise IndexError("a page has fewer elements")
    s, t, u = np.uint32(8), np.uint32(16), np.uint32(24)
    for i in range(n):
        low = np.uint32(a[i]) | np.uint32(b[i]) << s | np.uint32(c[i]) << t | np.uint32(d[i]) << u
        high = np.uint32(e[i]) | np.uint32(f[i]) << s | np.uint32(g[i]) << t | np.uint32(h[i]) << u
        out[i] = np.uint64(low) | np.uint64(high) << np.uint64(32)


def _sum_up(words) -> None:
    for i in range(1, len(words)):
        words[i] += words[i - 1]


def _unfold(words) -> None:
    one = words.dtype.type(1)
    for i in range(len(words)):
        words[i] = (words[i] >> one) ^ (~(words[i] & one) + one)


@cache
def loops() -> encoding.Loops:
    """Return the compiled loops."""
    joins = {width: _jit(join) for width, join in ((2, _join_two), (4, _join_four), (8, _join_eight))}
    return encoding.Loops(joins, _jit(_sum_up), _jit(_unfold))


def use() -> None:
    """Unpack pages by compiled loops in this process from now on."""
    encoding.set_loops(loops())
