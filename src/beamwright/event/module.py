"""Modules: the units of reconstruction and analysis that paths are made of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Self, TypeVar, overload

from beamwright.core.errors import ConfigError, UnknownNameError
from beamwright.core.histogram import HistogramSet
from beamwright.core.runs import Interval
from beamwright.event.banks import BankSet
from beamwright.event.batch import Batch
from beamwright.event.table import Array

T = TypeVar("T", bool, int, float, str)

CONDITIONS = "@conditions"


@dataclass(frozen=True)
class RunInfo:
    """The run that a module works on."""

    series: str
    number: int
    is_mc: bool = False
    is_resampled: bool = False


class Constants(Mapping[str, Array]):
    """The constants of one tag: columns by name, a document, and the id of their payload."""

    __slots__ = ("arrays", "document", "payload_id")

    def __init__(self, arrays: Mapping[str, Array], document: Any = None, payload_id: str = "") -> None:
        self.arrays = dict(arrays)
        self.document = document
        self.payload_id = payload_id

    def __getitem__(self, column: str) -> Array:
        try:
            return self.arrays[column]
        except KeyError:
            raise UnknownNameError("column of the constants", column, self.arrays) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self.arrays)

    def __len__(self) -> int:
        return len(self.arrays)

    def __repr__(self) -> str:
        return f"Constants({self.payload_id[:12]}: {', '.join(self.arrays)})"


Conditions = Mapping[str, Constants]


class Parameter(Generic[T]):
    """A documented parameter of a module, with its default and unit; set it by keyword where the module is
    made.
    """

    def __init__(self, default: T, unit: str = "", doc: str = "") -> None:
        self.default: T = default
        self.unit = unit
        self.doc = doc
        self.name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...

    @overload
    def __get__(self, instance: object, owner: type) -> T: ...

    def __get__(self, instance: object | None, owner: type) -> Any:
        return self if instance is None else instance.__dict__.get(self.name, self.default)

    def __set__(self, instance: object, value: T) -> None:
        instance.__dict__[self.name] = self.checked(value, type(instance).__name__)

    def checked(self, value: Any, owner: str) -> T:
        """Return the value in the type of the default.

        Raises: ConfigError.
        """
        kind = type(self.default)
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            raise ConfigError(
                f"parameter {self.name} of {owner} is a {kind.__name__}, not {value!r}",
                hint=f"its default is {self.default!r}",
            )
        return value


class Configurable:
    """Anything with parameters that are given by keyword."""

    def __init__(self, **parameters: Any) -> None:
        for name, value in parameters.items():
            self.set(name, value)

    @classmethod
    def parameters(cls) -> dict[str, Parameter[Any]]:
        """Return the parameters by name, those of base classes first."""
        found: dict[str, Parameter[Any]] = {}
        for base in reversed(cls.__mro__):
            found.update({k: v for k, v in vars(base).items() if isinstance(v, Parameter)})
        return found

    def set(self, name: str, value: Any) -> None:
        """Set one parameter.

        Raises: UnknownNameError, ConfigError.
        """
        known = self.parameters()
        if name not in known:
            raise UnknownNameError(f"parameter of {type(self).__name__}", name, known)
        setattr(self, name, value)

    def configuration(self) -> dict[str, Any]:
        """Return the values of all parameters."""
        return {name: getattr(self, name) for name in self.parameters()}


class Module(Configurable):
    """One step of a path. Declare the banks in ``reads`` and ``writes``; conditions as ``"Tag@conditions"``
    in ``reads``.

    A module must not carry anything from batch to batch but what ``begin_run`` and ``conditions_changed``
    set: batches are spread over
    processes.
    """

    reads: Sequence[str] = ()
    writes: Sequence[str] = ()
    compile_ns = 0
    """Set within ``process`` by what compiles code there: the time does not count as work."""

    @property
    def name(self) -> str:
        return type(self).__name__

    def book(self, histograms: HistogramSet) -> None:
        """Book histograms, once, before the first event; keep what ``histograms.book`` returns for
        ``batch.fill``.
        """

    def prepare(self, banks: BankSet) -> None:
        """Do once what takes long, before the first event and before workers are forked; ``banks`` are the
        declarations.
        """

    def begin_run(self, run: RunInfo) -> None:
        """Prepare for the batches of a run."""

    def conditions_changed(self, interval: Interval, conditions: Conditions) -> None:
        """Take the constants of the tags that the module reads: at the start, and whenever one of them
        changes.
        """

    def process(self, batch: Batch) -> None:
        """Work on one batch: read its banks, add banks, make selections, fill histograms."""

    def end_run(self, run: RunInfo) -> None:
        """Finish a run."""

    def bank_reads(self) -> tuple[str, ...]:
        """Return the banks among ``reads``."""
        return banks_among(self.reads)

    def tag_reads(self) -> tuple[str, ...]:
        """Return the conditions among ``reads``."""
        return conditions_among(self.reads)


def banks_among(reads: Sequence[str]) -> tuple[str, ...]:
    """Return the names of banks among what is read."""
    return tuple(name for name in reads if not name.endswith(CONDITIONS))


def conditions_among(reads: Sequence[str]) -> tuple[str, ...]:
    """Return the conditions among what is read, without their suffix."""
    return tuple(name.removesuffix(CONDITIONS) for name in reads if name.endswith(CONDITIONS))


class Builder(Module):
    """A module that makes records of another kind out of those of a batch; the modules after it work on
    these.
    """

    builds: str = ""

    def build(self, batch: Batch) -> Batch:
        """Return the created records: ascending keys, each with its parent's, in the parent's section; see
        ``create``.
        """
        raise TypeError(f"{type(self).__name__} is a Builder without build()")

    def create(self, batch: Batch, parents: Array, events: Array) -> Batch:
        """Return an empty batch of created records with these numbers, made from records ``parents`` of
        ``batch`` (ascending).
        """
        return Batch(
            self.builds, batch.series, batch.run, batch.section[parents], events,
            banks=batch.banks, seed=batch.seed,
            parent_section=batch.section[parents], parent_event=batch.event[parents],
        )  # fmt: skip
