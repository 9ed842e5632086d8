"""Constants against the truth: (found - true) / error. ``python -m drift.pulls WORKSPACE`` prints them."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from drift.calibrations import ALIGNMENT, OFFSETS
from drift.truth import FREE, Floats, truth

if TYPE_CHECKING:
    from beamwright.production.access import Access

GLOBAL_TAG = "drift"


@dataclass(frozen=True)
class Pulls:
    """The pulls of one kind of constants in one run, and the largest distance from the truth."""

    role: str
    run: int
    values: Floats
    distance: float


def of_run(role: str, run: int, values: Floats, errors: Floats) -> Pulls:
    """Return the pulls of what was found for a run."""
    true, chosen = (truth(run).offsets, slice(None)) if role == OFFSETS else (truth(run).shifts, FREE)
    apart = (values - true)[chosen]
    return Pulls(role, run, apart / errors[chosen], float(np.abs(apart).max()))


def pulls(access: Access, role: str) -> list[Pulls]:
    """Return the pulls of the runs whose constants were fitted, and rest on fitted ones."""
    column = "offset" if role == OFFSETS else "shift"
    fitted = [_fitted(access, name) for name in ((OFFSETS,) if role == OFFSETS else (OFFSETS, ALIGNMENT))]
    found = [v for v in access.constants(f"{GLOBAL_TAG}/{role}") if v.origin == "fitted"]
    runs = set.intersection(*fitted)
    return [
        of_run(role, v.interval.first[0], v.constants[column], v.constants["error"])
        for v in found
        if v.interval.first[0] in runs
    ]


def table(found: list[Pulls]) -> list[str]:
    """Return lines that show pulls run by run, and all together."""
    lines = [f"{'constants':<12} {'run':>4} {'number':>6} {'mean':>15} {'width':>14} {'largest':>8}"]
    groups = [(one.role, str(one.run), one.values) for one in found]
    for role in dict.fromkeys(one.role for one in found):
        groups.append((role, "all", np.concatenate([one.values for one in found if one.role == role])))
    for role, run, values in groups:
        mean, width = moments(values)
        told = f"{mean[0]:>7.3f} ± {mean[1]:.3f} {width[0]:>6.3f} ± {width[1]:.3f}"
        lines.append(f"{role:<12} {run:>4} {len(values):>6} {told} {np.abs(values).max():>8.2f}")
    return lines


def moments(values: Floats) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return mean and width of pulls, each with its error: near 0 and 1 where errors are true."""
    width, number = float(values.std(ddof=1)), len(values)
    return (float(values.mean()), width / number**0.5), (width, width / (2.0 * (number - 1)) ** 0.5)


def _fitted(access: Access, role: str) -> set[int]:
    found = access.constants(f"{GLOBAL_TAG}/{role}")
    return {v.interval.first[0] for v in found if v.origin == "fitted"}


def main() -> int:
    """Print the pulls of a workspace's drift production."""
    from beamwright.production.access import Access
    from beamwright.production.workspace import Workspace

    workspace = Workspace.open(Path(sys.argv[1]))
    with workspace.db.read() as conn:
        access = Access(conn, "drift")
        lines = table([*pulls(access, OFFSETS), *pulls(access, ALIGNMENT)])
    sys.stdout.write("\n".join(lines) + "\n")
    workspace.db.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
