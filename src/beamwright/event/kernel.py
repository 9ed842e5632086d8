"""Modules that are one compiled function over flat arrays: the kernel form, by numba (extra ``numba``)."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Any, ClassVar, NamedTuple

import numpy as np

from beamwright.core.errors import ConfigError, ModuleError, UnknownNameError
from beamwright.core.histogram import Histogram
from beamwright.event.banks import ONE, Bank, BankSet
from beamwright.event.batch import HISTOGRAM_PREFIX, Batch
from beamwright.event.module import Module
from beamwright.event.table import Array, Jagged, Table

numba: Any
try:
    import numba
except ImportError:
    numba = None

OFFSETS = "_offsets"


class Counts(NamedTuple):
    """A histogram of one axis as a kernel fills it, with ``fill``."""

    counts: Array
    low: float
    scale: float


def fill(histogram: Counts, value: float) -> None:
    """Count one entry, in the bin in which ``batch.fill`` counts it; to be called in a kernel."""
    bins = len(histogram.counts) - 2
    at = (value - histogram.low) * histogram.scale
    if at != at or at >= bins:
        histogram.counts[bins + 1] += 1
    elif at < 0:
        histogram.counts[0] += 1
    else:
        histogram.counts[int(at) + 1] += 1


if numba is not None:
    from beamwright.event.rntuple import compiled

    fill = numba.extending.register_jitable(fill)
    compiled.use()


@dataclass(frozen=True)
class _Argument:
    """What an argument of a kernel stands for."""

    name: str
    kind: str
    bank: str = ""
    column: str = ""


class KernelModule(Module):
    """A module whose work is ``kernel``, a static method that numba compiles.

    Its arguments are found by their names: ``n`` is the number of events; the name of a bank its offsets, of
    which a kernel sets those of banks that it writes; ``Bank_column`` the flat values of a column,
    ``Bank_column_offsets`` the offsets of a column of lists; the name of a selection in ``selects`` a mask to
    be set; any other name an attribute of the module: a parameter, an array or number kept from
    ``conditions_changed``, a histogram, to be filled by ``fill``. Of a bank with many rows a kernel writes at
    most ``capacity(batch, bank)`` rows.
    """

    selects: Sequence[str] = ()
    checks_bounds: ClassVar[bool] = True
    """Whether an index outside an array raises IndexError; without, it reads or destroys other memory."""
    kernel: ClassVar[Callable[..., None] | None] = None

    _arguments: tuple[_Argument, ...] = ()
    _compiled: Any = None
    _known: frozenset[tuple[Any, ...]] = frozenset()

    def capacity(self, batch: Batch, bank: str) -> int:
        """Return how many rows of a bank the kernel may write for a batch: as many as it has events."""
        return batch.n

    def prepare(self, banks: BankSet) -> None:
        """Find out what the arguments are, and compile where their types are known by now.

        Raises: ConfigError where numba is absent or the kernel cannot be compiled, UnknownNameError.
        """
        if numba is None:
            raise ConfigError(
                f"module {self.name} is a kernel, and numba is not installed",
                hint="install it with `pip install beamwright[numba]`, or write the module in columns",
            )
        function = type(self).kernel
        if function is None:
            raise ConfigError(
                f"module {self.name} has no kernel", hint="define `kernel` as a static method of arrays"
            )
        names = tuple(inspect.signature(function).parameters)
        self._arguments = tuple(self._argument(name, banks) for name in names)
        self._check_given(banks)
        self._compiled = _jitted(function, self.checks_bounds)
        if all(argument.kind != "attribute" or hasattr(self, argument.name) for argument in self._arguments):
            work = _Work(self, _empty_batch(self, banks))
            self._compile([work.value(argument) for argument in self._arguments])

    def _argument(self, name: str, banks: BankSet) -> _Argument:
        if name == "n":
            return _Argument(name, "n")
        if name in self.selects:
            return _Argument(name, "mask")
        found = [*self._of_banks(name, banks)]
        if len(found) > 1:
            where = " and ".join(f"{one.bank}.{one.column}" for one in found)
            raise ConfigError(f"argument {name} of kernel {self.name} is {where}", hint="rename one column")
        if found:
            return found[0]
        for bank in (*self.bank_reads(), *self.writes):
            if name.startswith(f"{bank}_"):
                columns = [f"{bank}_{column}" for column in banks[bank].by_name]
                raise UnknownNameError(f"argument of kernel {self.name}", name, [bank, *columns])
        return _Argument(name, "attribute")

    def _of_banks(self, name: str, banks: BankSet) -> Iterator[_Argument]:
        for bank in dict.fromkeys((*self.writes, *self.bank_reads())):
            side = "out" if bank in self.writes else "in"
            if name == bank:
                yield _Argument(name, f"{side} bank", bank)
            for column in banks[bank].columns:
                flat = f"{bank}_{column.name}"
                if name in (flat, flat + OFFSETS) and column.levels > 1:
                    raise ConfigError(
                        f"argument {name} of kernel {self.name} holds lists of lists",
                        hint="kernels take one level: work on the column in a module of columns",
                    )
                if name == flat:
                    yield _Argument(name, f"{side} column", bank, column.name)
                elif name == flat + OFFSETS and column.jagged:
                    yield _Argument(name, f"{side} offsets", bank, column.name)

    def _check_given(self, banks: BankSet) -> None:
        """Check that the kernel takes all that it has to write."""
        taken = {argument.name for argument in self._arguments}
        for name in self.writes:
            bank = banks[name]
            jagged = next((column.name for column in bank.columns if column.jagged), None)
            if jagged is not None:
                raise ConfigError(
                    f"kernel {self.name} writes bank {name}, whose column {jagged} holds lists",
                    hint="write the bank in a module of columns, or the lists as a bank of their own",
                )
            needed = [f"{name}_{column.name}" for column in bank.columns]
            needed += [] if bank.rows == ONE else [name]
            missing = [wanted for wanted in needed if wanted not in taken]
            if missing:
                raise ConfigError(
                    f"kernel {self.name} writes bank {name} and does not take {missing[0]}",
                    hint="a kernel takes every column of the banks that it writes, and the offsets of "
                    'those with rows = "many"',
                )
        untaken = [name for name in self.selects if name not in taken]
        if untaken:
            raise ConfigError(
                f"kernel {self.name} does not take its selection {untaken[0]!r}", hint="add the argument"
            )

    def process(self, batch: Batch) -> None:
        """Call the kernel on the arrays of the batch, and take over what it wrote."""
        work = _Work(self, batch)
        arguments = [work.value(argument) for argument in self._arguments]
        self._compile(arguments)
        self._compiled(*arguments)
        work.finish()

    def _compile(self, arguments: Sequence[Any]) -> None:
        """Compile for these types, if that is not done yet, and note the time apart from the work."""
        known = tuple(_outline(argument) for argument in arguments)
        if known in self._known:
            return
        types = tuple(numba.typeof(argument) for argument in arguments)
        begun = perf_counter_ns()
        try:
            self._compiled.compile(types)
        except numba.core.errors.NumbaError as error:
            raise ModuleError(
                f"the kernel of module {self.name} cannot be compiled: {_first_lines(error)}",
                hint="a kernel uses numbers, arrays and functions that numba knows",
            ) from error
        self._known |= {known}
        self.compile_ns += perf_counter_ns() - begun


class _Work:
    """The arrays of one call of a kernel."""

    def __init__(self, module: KernelModule, batch: Batch) -> None:
        self.module, self.batch = module, batch
        self.offsets: dict[str, Array] = {}
        self.columns: dict[str, dict[str, Array]] = {name: {} for name in module.writes}
        self.masks: dict[str, Array] = {}
        self.histograms: dict[str, tuple[Histogram, Array]] = {}

    def value(self, argument: _Argument) -> Any:
        """Return what a kernel gets for an argument."""
        bank, column = argument.bank, argument.column
        if argument.kind == "n":
            return self.batch.n
        if argument.kind == "mask":
            return self.masks.setdefault(argument.name, np.zeros(self.batch.n, np.bool_))
        if argument.kind == "in bank":
            return self.batch[bank].offsets
        if argument.kind == "in column":
            values = self.batch[bank][column]
            return values.values if isinstance(values, Jagged) else values
        if argument.kind == "in offsets":
            return self.batch[bank][column].offsets
        if argument.kind == "out bank":
            return self.offsets.setdefault(bank, np.zeros(self.batch.n + 1, np.int64))
        if argument.kind == "out column":
            return self.columns[bank].setdefault(column, self._room(self.batch.bank(bank), column))
        return self._attribute(argument.name)

    def _room(self, bank: Bank, column: str) -> Array:
        rows = self.batch.n if bank.rows == ONE else self.module.capacity(self.batch, bank.name)
        return np.zeros(rows, bank[column].dtype)

    def _attribute(self, name: str) -> Any:
        try:
            value = getattr(self.module, name)
        except AttributeError:
            raise ModuleError(
                f"the kernel of module {self.module.name} takes {name!r}, and the module "
                "has no such attribute",
                hint="name a bank, Bank_column, a selection or a parameter, or set the attribute in "
                "begin_run or conditions_changed",
            ) from None
        if not isinstance(value, Histogram):
            return value
        if len(value.axes) != 1:
            raise ModuleError(
                f"a kernel cannot fill histogram {value.name}, which has {len(value.axes)} axes",
                hint="fill it with batch.fill in a module of columns",
            )
        (axis,) = value.axes
        counts = np.zeros(axis.bins + 2, np.int64)
        self.histograms[name] = (value, counts)
        return Counts(counts, float(axis.low), axis.bins / (axis.high - axis.low))

    def finish(self) -> None:
        """Put what the kernel wrote into the batch."""
        for name, columns in self.columns.items():
            self.batch[name] = self._table(self.batch.bank(name), columns)
        for name, mask in self.masks.items():
            self.batch.select(mask, name)
        for histogram, counts in self.histograms.values():
            self.batch.deposit(HISTOGRAM_PREFIX + histogram.name, {"counts": counts})

    def _table(self, bank: Bank, columns: dict[str, Array]) -> Table:
        if bank.rows == ONE:
            return Table.one(bank, columns)
        offsets = self.offsets[bank.name]
        room = self.module.capacity(self.batch, bank.name)
        rows = int(offsets[-1])
        if not 0 <= rows <= room:
            raise ModuleError(
                f"module {self.module.name} says that it wrote {rows} rows of bank {bank.name}, "
                f"and has room for {room}",
                hint="override capacity(), or set the bank's offsets: offsets[i + 1] is where event i ends",
            )
        return Table(bank, offsets, {name: values[:rows] for name, values in columns.items()})


def _outline(argument: Any) -> Any:
    """Return what the type of an argument depends on, for less than numba takes to find the type."""
    if isinstance(argument, np.ndarray):
        flags = argument.flags
        return (
            argument.dtype,
            argument.ndim,
            flags.c_contiguous,
            flags.f_contiguous,
            flags.writeable,
            flags.aligned,
        )
    return Counts if isinstance(argument, Counts) else numba.typeof(argument)


_JITTED: dict[tuple[Callable[..., None], bool], Any] = {}


def _jitted(function: Callable[..., None], checks_bounds: bool) -> Any:
    """Return the compiled form of a kernel, which all modules of its class share."""
    key = function, checks_bounds
    if key not in _JITTED:
        _JITTED[key] = numba.njit(boundscheck=checks_bounds)(function)
    return _JITTED[key]


def _empty_batch(module: KernelModule, banks: BankSet) -> Batch:
    tables = {name: Table.empty(banks[name], 0) for name in module.bank_reads()}
    return Batch("", "", 0, [], [], tables, banks=banks)


def _first_lines(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return "; ".join(lines[:4])
