"""Wheels made on the spot, of a few files or of what is installed here, and lock files that pin them."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path

import beamwright

_WHEEL = "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def wheel(
    folder: Path, name: str, files: Mapping[str, bytes], needs: Iterable[str] = (), version: str = "1.0"
) -> Path:
    """Write a wheel of the files."""
    stem = f"{name.replace('-', '_')}-{version}"
    needed = "".join(f"Requires-Dist: {need}\n" for need in needs)
    head = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needed}"
    info = {"METADATA": head.encode(), "WHEEL": _WHEEL.encode()}
    every = dict(files) | {f"{stem}.dist-info/{key}": value for key, value in info.items()}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file, data in sorted(every.items()):
            archive.writestr(zipfile.ZipInfo(file, (2000, 1, 1, 0, 0, 0)), data)
        lines = [f"{file},sha256={_digest(data)},{len(data)}" for file, data in sorted(every.items())]
        archive.writestr(f"{stem}.dist-info/RECORD", "\n".join([*lines, f"{stem}.dist-info/RECORD,,", ""]))
    return path


def repacked(folder: Path, name: str) -> Path:
    """Write a wheel of a distribution as it is installed here, without its scripts."""
    distribution = metadata.distribution(name)
    files = {}
    for path in distribution.files or ():
        is_kept = ".." not in path.parts and path.suffix != ".pyc" and ".dist-info" not in path.parts[0]
        if is_kept:
            files[str(path)] = path.locate().read_bytes()  # type: ignore[attr-defined]
    needs = [need for need in distribution.requires or () if "extra ==" not in need]
    return wheel(folder, distribution.metadata["Name"], files, needs, distribution.version)


def ourselves(folder: Path, needs: Iterable[str], **changes: bytes) -> Path:
    """Write a wheel of beamwright as it is here; ``changes`` are further modules."""
    root = Path(beamwright.__file__).parent
    paths = [p for p in root.rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    files = {f"beamwright/{path.relative_to(root)}": path.read_bytes() for path in paths}
    return wheel(folder, "beamwright", files | {f"beamwright/{n}.py": d for n, d in changes.items()}, needs)


def lock(path: Path, wheels: Iterable[Path]) -> Path:
    """Write a lock file that pins the wheels."""
    lines = []
    for one in wheels:
        name, version = one.name.split("-")[:2]
        lines.append(
            f"{name}=={version} \\\n    --hash=sha256:{hashlib.sha256(one.read_bytes()).hexdigest()}"
        )
    path.write_text("\n".join(lines) + "\n")
    return path


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
