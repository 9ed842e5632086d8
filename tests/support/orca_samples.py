"""Where the telescope's public test files are; importing this skips tests that cannot run without them."""

from __future__ import annotations

from pathlib import Path

import pytest

km3net_testdata = pytest.importorskip("km3net_testdata", reason="the extra `demo` brings the sample data")
pytest.importorskip("orca", reason="the sample experiment is not installed")


def sample(name: str) -> Path:
    """Give the path of a file of the package of test data."""
    return Path(km3net_testdata.data_path(name))
