"""Paths: ordered, conditional lists of modules with their outputs, checked before the first event."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from beamwright.core.errors import ConfigError, ModuleError, UnknownNameError, nearest
from beamwright.event.banks import ONE, BankSet
from beamwright.event.batch import Scope
from beamwright.event.module import Builder, Module
from beamwright.event.selection import Condition, condition
from beamwright.event.store import Split


@dataclass(frozen=True)
class When:
    """A module, or several in turn, that work only on the records for which a condition holds.

    The others get no rows of the banks that they write. A condition is the name of a selection, or more:
    see ``beamwright.event.selection``. It is looked at before each module.
    """

    module: Module | Sequence[Module]
    selection: str

    @property
    def modules(self) -> tuple[Module, ...]:
        return (self.module,) if isinstance(self.module, Module) else tuple(self.module)


def branch(selection: str, then: Sequence[Module], otherwise: Sequence[Module] = ()) -> list[When]:
    """Return the steps of a branch: modules for the records where a condition holds, and for the others."""
    return [When(then, selection), When(otherwise, f"not ({selection})")]


@dataclass(frozen=True)
class Output:
    """A stream of a path: which banks of which records go to a file.

    ``select`` is a condition, as of ``When`` (None: all records); ``record`` is the kind of records ("": the
    last kind that the path has). A ``pointer`` skim holds the banks that the path writes, and leads into the
    files that were read for the others. ``split`` lets the stream go on in another file after so many records
    or bytes.
    """

    stream: str
    banks: Sequence[str]
    select: str | None = None
    tier: str = "dst"
    record: str = ""
    pointer: bool = False
    split: Split | None = None


@dataclass(frozen=True)
class Step:
    """A module at its place in a path: ``stage`` is 0 before the builder and in it, 1 after it."""

    number: int
    name: str
    module: Module
    condition: Condition | None
    stage: int
    scope: Scope
    writes: frozenset[str]
    tags: tuple[str, ...]

    @property
    def builds(self) -> bool:
        return isinstance(self.module, Builder)


@dataclass
class Path:
    """Modules in order, working on one kind of records, and the streams they end in."""

    name: str
    record: str
    modules: Sequence[Module | When | Sequence[When]]
    outputs: Sequence[Output] = ()
    doc: str = ""
    steps: tuple[Step, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.steps = tuple(_steps(self.name, self.modules))
        streams = [output.stream for output in self.outputs]
        twice = [stream for stream in streams if streams.count(stream) > 1]
        if twice:
            raise ConfigError(
                f"path {self.name} has two outputs called {twice[0]!r}", hint="each stream has one output"
            )
        for output in self.outputs:
            if self.record_of(output) not in self.records:
                raise UnknownNameError(f"kind of record in path {self.name}", output.record, self.records)

    @property
    def builder(self) -> Step | None:
        """The step that creates records, if there is one."""
        return next((step for step in self.steps if step.builds), None)

    @property
    def records(self) -> tuple[str, ...]:
        """The kinds of records: the one that is read, and the one that is created."""
        built = self.builder
        return (self.record,) if built is None else (self.record, _builds(built.module))

    def record_of(self, output: Output) -> str:
        """Return the kind of records of an output."""
        return output.record or self.records[-1]

    @property
    def conditions(self) -> tuple[str, ...]:
        """The conditions that the modules read."""
        return tuple(sorted({tag for step in self.steps for tag in step.tags}))

    def output(self, stream: str) -> Output:
        """Return the output of a stream."""
        for output in self.outputs:
            if output.stream == stream:
                return output
        raise UnknownNameError(f"stream of path {self.name}", stream, [o.stream for o in self.outputs])

    def carried(self, output: Output) -> tuple[str, ...]:
        """Return the banks that go into the file of an output: all, or those that the path writes."""
        if not output.pointer:
            return tuple(output.banks)
        written = {name for step in self.steps for name in step.writes}
        return tuple(name for name in output.banks if name in written)

    def configuration(self) -> dict[str, Any]:
        """Return the parameters of all modules, for the hash of the configuration."""
        return {step.name: step.module.configuration() for step in self.steps}

    def configure(self, parameters: Mapping[str, Mapping[str, Any]]) -> None:
        """Set parameters by module and name.

        Raises: UnknownNameError, ConfigError.
        """
        by_name = {step.name: step.module for step in self.steps}
        for module, values in parameters.items():
            if module not in by_name:
                raise UnknownNameError(f"module of path {self.name}", module, by_name)
            for name, value in values.items():
                by_name[module].set(name, value)

    def check(
        self, banks: BankSet, available: Collection[str], tags: Collection[str] | None = None
    ) -> tuple[str, ...]:
        """Check every declaration against what there is, and return the banks to be read.

        ``available`` are the banks that the reader gives, ``tags`` those of the conditions (None: not known
        yet).
        Raises: UnknownNameError, ConfigError, ModuleError.
        """
        held = {self.record: set(available)}
        needed: set[str] = set()
        stage = self.record
        for step in self.steps:
            self._check_step(step, banks, held[stage], tags)
            used = {*step.module.bank_reads(), *(step.condition.banks if step.condition else ())}
            needed.update(used & set(available) if stage == self.record else ())
            if step.builds:
                stage = _builds(step.module)
                held[stage] = set()
            held[stage].update(step.writes)
        for output in self.outputs:
            found = held[self.record_of(output)]
            self._check_output(output, banks, found)
            if self.record_of(output) == self.record:
                compared = condition(output.select).banks if output.select is not None else ()
                needed.update({*self.carried(output), *compared} & set(available))
        return tuple(name for name in available if name in needed)

    def _check_step(self, step: Step, banks: BankSet, held: set[str], tags: Collection[str] | None) -> None:
        module = step.module
        for name in (*module.bank_reads(), *module.writes):
            if name not in banks:
                raise _unknown(step, name, banks)
        for name in module.bank_reads():
            if name not in held:
                raise ModuleError(
                    f"module {step.name} reads bank {name!r}, which nothing before it gives",
                    hint=nearest(name, held),
                )
        for tag in step.tags if tags is not None else ():
            if tag not in (tags or ()):
                raise UnknownNameError(f"tag of conditions (read by module {step.name})", tag, tags or ())
        if step.condition is not None:
            _check_condition(step.condition, f"condition of module {step.name}", banks, held)
            self._check_when(step, banks, held)

    def _check_when(self, step: Step, banks: BankSet, held: set[str]) -> None:
        for name in step.module.writes:
            if banks[name].rows == ONE or name in held:
                cause = "has one row per record" if banks[name].rows == ONE else "exists already"
                raise ConfigError(
                    f"module {step.name} is conditional and writes bank {name}, which {cause}",
                    hint='a conditional module writes new banks with rows = "many"',
                )

    def _check_output(self, output: Output, banks: BankSet, held: set[str]) -> None:
        if output.select is not None:
            _check_condition(condition(output.select), f"select of output {output.stream}", banks, held)
        for name in output.banks:
            if name not in banks:
                raise UnknownNameError(f"bank (in output {output.stream} of path {self.name})", name, banks)
            if name not in held:
                raise ModuleError(
                    f"output {output.stream} of path {self.name} takes bank {name!r}, which there is not",
                    hint=nearest(name, held),
                )


def _builds(module: Module) -> str:
    return module.builds if isinstance(module, Builder) else ""


def _unknown(step: Step, name: str, banks: Iterable[str]) -> UnknownNameError:
    return UnknownNameError(f"bank (of module {step.name})", name, banks)


def _steps(path: str, modules: Iterable[Module | When | Sequence[When]]) -> Iterator[Step]:
    stage = 0
    seen: dict[str, int] = {}
    for number, (module, when) in enumerate(_unfolded(modules)):
        if isinstance(module, Builder):
            _check_builder(path, module, stage, when)
        seen[module.name] = seen.get(module.name, 0) + 1
        name = module.name if seen[module.name] == 1 else f"{module.name}#{seen[module.name]}"
        writes = frozenset(module.writes)
        scope = Scope(name, frozenset(module.bank_reads()) | writes, writes)
        holds = None if when is None else condition(when)
        yield Step(number, name, module, holds, stage, scope, writes, module.tag_reads())
        stage += isinstance(module, Builder)


def _unfolded(items: Iterable[Module | When | Sequence[When]]) -> Iterator[tuple[Module, str | None]]:
    """Yield the modules in order, each with its condition."""
    for item in items:
        if isinstance(item, Module):
            yield item, None
        elif isinstance(item, When):
            yield from ((module, item.selection) for module in item.modules)
        else:
            yield from _unfolded(item)


def _check_condition(held: Condition, where: str, banks: BankSet, tables: set[str]) -> None:
    for name in held.banks:
        if name not in banks:
            raise UnknownNameError(f"bank (in the {where})", name, banks)
        if name not in tables:
            raise ModuleError(
                f"the {where} compares bank {name!r}, which nothing before it gives",
                hint=nearest(name, tables),
            )
    held.check(banks)


def _check_builder(path: str, module: Builder, stage: int, selection: str | None) -> None:
    if stage:
        raise ConfigError(
            f"path {path} has two builders, the second is {module.name}",
            hint="read the first one's stream in a path of its own",
        )
    if selection is not None:
        raise ConfigError(
            f"builder {module.name} is conditional on {selection!r}",
            hint="let it create nothing for the other records",
        )
    if not module.builds:
        raise ConfigError(
            f"builder {module.name} does not say what it builds",
            hint='set builds = "name of the created records"',
        )
