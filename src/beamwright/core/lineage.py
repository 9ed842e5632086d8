"""What a file says of its own making: the metadata record that travels inside it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from beamwright.core.canonical import content_hash


@dataclass(frozen=True)
class Lineage:
    """Where the content of an output comes from; nothing in it depends on when or where it was made.

    ``parents`` are sha256 of input files; ``seeds`` the job's seeds by name; ``parameters`` the path's
    configuration.
    """

    experiment: str
    production: str
    step: str
    path: str
    stream: str
    tier: str
    series: str
    release: str
    config_hash: str
    global_tag: str = ""
    resolved_hash: str = ""
    is_mc: bool = False
    is_resampled: bool = False
    parents: tuple[str, ...] = ()
    interval: tuple[Any, ...] = ()
    seeds: dict[str, int] = field(default_factory=dict)
    quarantined: tuple[str, ...] = ()

    def document(self) -> dict[str, Any]:
        """Return a JSON-ready form."""
        return asdict(self)

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Lineage:
        """Read the form that ``document()`` writes."""
        known = dict(document)
        for name in ("parents", "interval", "quarantined"):
            known[name] = tuple(known.get(name, ()))
        return cls(**known)

    @property
    def hash(self) -> str:
        return content_hash(self.document())

    def group(self) -> tuple[Any, ...]:
        """Return what must agree between files that are merged: everything but what names the part."""
        return (
            self.experiment,
            self.production,
            self.stream,
            self.tier,
            self.series,
            self.release,
            self.config_hash,
            self.global_tag,
            self.is_mc,
            self.is_resampled,
        )
