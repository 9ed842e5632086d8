"""Shared by all tests: nothing but what every one of them needs."""

from __future__ import annotations

import os

# One thread per process in every numerical library: tests fork, and results must not depend on pools.
for _pool in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(_pool, "1")
# Arrow's allocator would start a thread as soon as it is imported.
os.environ.setdefault("JE_ARROW_MALLOC_CONF", "background_thread:false")

pytest_plugins = ("support.databases",)
