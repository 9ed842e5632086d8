"""Process, calibrate, account for and distribute the data of an experiment."""

from __future__ import annotations
