"""The wrapper as one file that runs wherever a Python is: a zip archive with ``durable`` and nothing else."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import beamwright
from beamwright import durable

MODULES = ("durable.py", "batch/__init__.py", "batch/children.py", "batch/wrapper.py")
_MAIN = b"import sys\nfrom beamwright.batch.wrapper import main\nsys.exit(main(sys.argv[1:]))\n"
_EPOCH = (1980, 1, 1, 0, 0, 0)


def build() -> bytes:
    """Return the archive; the same modules give the same bytes."""
    root = Path(beamwright.__file__).parent
    members = {f"beamwright/{name}": (root / name).read_bytes() for name in MODULES}
    members |= {"beamwright/__init__.py": b"", "__main__.py": _MAIN}
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in sorted(members):
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), members[name])
    return stream.getvalue()


def install(path: Path) -> None:
    """Put the archive where workers find it.

    Raises: FileExistsError when another one is there: name it after its content.
    """
    durable.put_once(path, build(), mode=0o755)
