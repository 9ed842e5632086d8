"""Shared by all tests: nothing but what every one of them needs."""

from __future__ import annotations

import os
import signal

from hypothesis import HealthCheck, settings

# One thread per process in every numerical library: tests fork, and results must not depend on pools.
for _pool in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(_pool, "1")
# Arrow's allocator would start a thread as soon as it is imported.
os.environ.setdefault("JE_ARROW_MALLOC_CONF", "background_thread:false")

# What a shell starts in the background ignores Ctrl-C, and so would all commands that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples everywhere, however slow the machine: what fails here is due to a change, and fails again.
# Others are drawn by `--hypothesis-profile=others`.
_EXAMPLES = settings(
    deadline=None,
    database=None,
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.register_profile("same", _EXAMPLES, derandomize=True)
settings.register_profile("others", _EXAMPLES, print_blob=True)
settings.load_profile("same")

pytest_plugins = ("support.databases",)
