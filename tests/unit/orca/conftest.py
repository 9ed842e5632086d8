"""The telescope's detectors and time slices, read once."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def detector44():
    return _detector("detx/km3net_offline.detx")


@pytest.fixture(scope="session")
def detector133():
    return _detector("detx/KM3NeT_00000133_20221025.detx")


@pytest.fixture(scope="session")
def slices6633():
    return _slices("online/km3net_online.root")


@pytest.fixture(scope="session")
def slices6884():
    return _slices("online/events_sample.root")


def _detector(name: str):
    from orca.detx import read_detector
    from support.orca_samples import sample

    return read_detector(sample(name))


def _slices(name: str):
    from orca.raw import L1, OnlineFile
    from support.orca_samples import sample

    with OnlineFile(sample(name)) as file:
        return file.slices(L1)
