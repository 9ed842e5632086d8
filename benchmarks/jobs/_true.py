"""The payload that does nothing and says so, served by a warm runner: it needs the standard library alone.

``python -I -S _true.py process --serve``
"""

from __future__ import annotations

import sys

sys.path.append(__file__.rpartition("/benchmarks/")[0] + "/src")

from beamwright.production import runner  # noqa: E402

DONE = '{"status":"ok","failure_class":null,"message":"","release":"","ledger":[],"outputs":[]}'


def payload(argv: list[str]) -> int:
    """Do nothing, and say so."""
    with open("payload.json", "w") as stream:
        stream.write(DONE)
    return 0


if __name__ == "__main__":
    sys.exit(runner.main(payload))
