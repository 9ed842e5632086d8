"""Process, calibrate, account for and distribute the data of an experiment."""

from __future__ import annotations

__version__ = "0.1.0"
