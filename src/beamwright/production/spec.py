"""The production file: datasets, constants and a graph of steps, checked when it is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from beamwright.core.canonical import content_hash
from beamwright.core.errors import ConfigError, nearest
from beamwright.core.settings import Declaration, declare, decoded, parse_toml
from beamwright.production import requests
from beamwright.production.requests import RequestSpec
from beamwright.production.rules import RetryRule, StateSpec, check_states

Kind = Literal["calibrate", "process", "merge", "generate", "analyse"]


class DatasetSpec(Declaration):
    """What is processed: runs of some series at one tier, under one global tag.

    ``runs`` lists, per series, the runs that belong to it, in order; the dataset is complete when all are
    closed. ``close_after_s`` ends a run that gets nothing more for so long, ``skip_after_s`` passes over one
    that has not come so long after a later one; without them both are waited for.
    """

    name: str
    tier: str = "raw"
    runs: dict[str, list[int]] = Field(min_length=1)
    global_tag: str
    close_after_s: float | None = Field(default=None, ge=0)
    skip_after_s: float | None = Field(default=None, ge=0)
    is_mc: bool = False
    is_resampled: bool = False


class ConstantsSpec(Declaration):
    """Constants of the experiment that are loaded by hand into the tags of a global tag."""

    name: str
    global_tag: str


class StepSpec(Declaration):
    """One step: a path over records, a set of calibrations in run order, a merge, or a generation.

    ``inputs`` names datasets, or ``step.stream`` for the output of an earlier step. ``initial`` names, per
    series, the constants that a chain of calibrations starts from. ``verdict`` names subjects of pass 1 that
    must be good before a run is taken up. With ``rounds`` above one an interval is
    collected and fitted anew, with the constants that the round before found, until none moves by more than
    ``tolerance``; what has not converged at the bound is rejected. ``split`` is the largest number of records
    in a unit, ``target_mb`` the size at which a merge closes, ``request`` what is generated.
    """

    name: str
    kind: Kind = "process"
    inputs: list[str] = Field(min_length=1)
    path: str = ""
    calibrations: list[str] = []
    initial: dict[str, str] = {}
    prescale: dict[str, int] = {}
    max_runs: int = Field(default=1, ge=1)
    max_wait_s: float | None = Field(default=None, ge=0)
    on_reject: Literal["carry", "hold"] = "carry"
    verdict: list[str] = []
    rounds: int = Field(default=1, ge=1)
    tolerance: float = Field(default=0.0, ge=0)
    split: int | None = Field(default=None, ge=1)
    split_mb: float | None = Field(default=None, gt=0)
    files: int = Field(default=1, ge=1)
    group_mb: float | None = Field(default=None, gt=0)
    by_run: bool = False
    target_mb: float = Field(default=256.0, gt=0)
    parameters: dict[str, dict[str, Any]] = {}
    farms: list[str] = []
    priority: int = 0
    seed: int = 0
    memory_mb: int | None = Field(default=None, gt=0)
    wall_s: float | None = Field(default=None, gt=0)
    scouts: int = Field(default=0, ge=0)
    max_failed: float = Field(default=1.0, gt=0, le=1)
    retry: list[RetryRule] = []
    state: list[StateSpec] = []
    request: RequestSpec | None = None
    code: str = ""
    banks: str = ""
    outputs: dict[str, str] = {}

    @model_validator(mode="after")
    def _declared(self) -> Self:
        check_states(self.retry, self.state)
        return self


class ProductionSpec(Declaration):
    """A production file.

    ``deliveries`` names a list of the experiment's deliveries that are made as the production goes;
    ``freeze`` freezes the global tags when all is done.
    """

    name: str = Field(pattern=r"^(user\.[a-z0-9_-]{1,31}\.)?[a-z0-9][a-z0-9_-]{0,62}$")
    experiment: str
    title: str = ""
    deliveries: str = ""
    uniform: bool = False
    freeze: bool = False
    constants: list[ConstantsSpec] = []
    dataset: list[DatasetSpec] = Field(min_length=1)
    step: list[StepSpec] = Field(min_length=1)

    @property
    def hash(self) -> str:
        return content_hash(self.model_dump(mode="json"))

    def datasets(self) -> dict[str, DatasetSpec]:
        return {d.name: d for d in self.dataset}

    def is_made(self, dataset: DatasetSpec) -> bool:
        """Tell whether the runs of a dataset are only simulated: nobody delivers them."""
        kinds = {step.kind for step in self.step if dataset.name in step.inputs}
        return dataset.is_mc and kinds == {"generate"} and not self.deliveries

    def steps(self) -> dict[str, StepSpec]:
        return {s.name: s for s in self.step}


def read_spec(text: str, source: str) -> ProductionSpec:
    """Read and check a production file.

    Raises: ConfigError, naming the key, dataset, step or stream that is wrong.
    """
    spec = declare(ProductionSpec, parse_toml(text, source), source)
    _check_names(spec, source)
    _check_owner(spec, source)
    _check_graph(spec, source)
    _check_measures(spec, source)
    return spec


def load_spec(path: Path) -> ProductionSpec:
    """Read a production file from disk."""
    try:
        return read_spec(decoded(path.read_bytes(), str(path)), str(path))
    except FileNotFoundError as error:
        raise ConfigError(
            f"there is no production file {path}", hint="give the path of a TOML file"
        ) from error


def split_input(name: str) -> tuple[str, str]:
    """Return (dataset, "") or (step, stream)."""
    step, _, stream = name.partition(".")
    return step, stream


def _check_names(spec: ProductionSpec, source: str) -> None:
    names = [*(d.name for d in spec.dataset), *(s.name for s in spec.step)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        hint = "datasets and steps share one set of names: give each a name of its own"
        raise ConfigError(f"{source}: the name {twice[0]!r} stands twice", hint=hint)


def _check_owner(spec: ProductionSpec, source: str) -> None:
    """Analyses are declared in files of their own, and have the scopes of analysts to themselves."""
    hint = "an analysis has a file of its own: `beamwright task analyse FILE`"
    if spec.name.startswith("user."):
        raise ConfigError(f"{source}: {spec.name!r} is a name in the scope of an analyst", hint=hint)
    odd = [s.name for s in spec.step if s.kind == "analyse" or s.code or s.banks or s.outputs]
    if odd:
        raise ConfigError(f"{source}: step {odd[0]!r} is an analysis", hint=hint)
    for step in spec.step:
        foreign = [name for name in step.inputs if name.startswith("user.")]
        if foreign:
            message = f"{source}: step {step.name!r} reads {foreign[0]!r}, which belongs to an analyst"
            raise ConfigError(message, hint="nothing of an analysis enters a production")


def _check_graph(spec: ProductionSpec, source: str) -> None:
    """Each input names a dataset or an earlier step, and each kind of step has what it needs."""
    known = set(spec.datasets())
    for step in spec.step:
        for name in step.inputs:
            head, stream = split_input(name)
            if head not in known:
                raise ConfigError(
                    f"{source}: step {step.name!r} reads {name!r}, which is no dataset and no earlier step",
                    hint=nearest(head, known),
                )
            if (head in spec.datasets()) == bool(stream):
                raise ConfigError(
                    f"{source}: step {step.name!r} reads {name!r}",
                    hint="write the dataset's name, or step.stream",
                )
        _check_step(step, source)
        known.add(step.name)


def _check_step(step: StepSpec, source: str) -> None:
    if step.kind in ("process", "generate") and not step.path:
        raise ConfigError(f"{source}: step {step.name!r} has no path", hint="name a path of the experiment")
    if step.kind == "calibrate" and not step.calibrations:
        raise ConfigError(
            f"{source}: step {step.name!r} has no calibrations", hint="list calibrations of the experiment"
        )
    if step.verdict and (step.kind != "process" or any(split_input(name)[1] for name in step.inputs)):
        raise ConfigError(
            f"{source}: step {step.name!r} cannot wait for a verdict",
            hint="a process step that reads a dataset waits for what pass 1 says of its runs",
        )
    if step.kind != "calibrate" and step.rounds > 1:
        raise ConfigError(f"{source}: step {step.name!r} has rounds", hint="only calibrations are repeated")
    if step.kind == "merge" and any(not split_input(name)[1] for name in step.inputs):
        raise ConfigError(f"{source}: step {step.name!r} merges a dataset", hint="a merge reads step.stream")
    _check_request(step, source)
    splits, groups = bool(step.split or step.split_mb), step.files > 1 or bool(step.group_mb) or step.by_run
    is_cut = step.kind == "generate" and not (step.split_mb or groups)
    if (splits or groups) and step.kind != "process" and not is_cut:
        raise ConfigError(
            f"{source}: step {step.name!r} splits or groups its inputs",
            hint="only `process` steps do; one of kind `generate` has `split`, the events of a unit",
        )
    if splits and groups:
        raise ConfigError(
            f"{source}: step {step.name!r} both splits inputs and takes several into a unit",
            hint="give split and split_mb, or files, group_mb and by_run",
        )
    if step.kind == "calibrate" and any(split_input(name)[1] for name in step.inputs):
        raise ConfigError(
            f"{source}: step {step.name!r} calibrates on the output of a step",
            hint="calibrations read datasets",
        )


def _check_request(step: StepSpec, source: str) -> None:
    """A step that generates says what it is asked for, and reads datasets for their runs; no other does."""
    if (step.kind == "generate") != (step.request is not None):
        hint = "[step.request] says how many events a step of kind `generate` makes"
        raise ConfigError(f"{source}: step {step.name!r} is of kind {step.kind} and has "
                          f"{'a' if step.request else 'no'} request", hint=hint)  # fmt: skip
    if step.request is None:
        return
    requests.check(step.request, step.name, source)
    if any(split_input(name)[1] for name in step.inputs):
        hint = "it generates for the runs of a dataset, under their conditions"
        raise ConfigError(f"{source}: step {step.name!r} generates from the output of a step", hint=hint)
    if step.prescale:
        hint = "ask for fewer events"
        raise ConfigError(f"{source}: step {step.name!r} prescales what it generates", hint=hint)


def _check_measures(spec: ProductionSpec, source: str) -> None:
    """Runs that are only simulated have neither luminosity nor records."""
    known = spec.datasets()
    for step in spec.step:
        for name in step.inputs if step.request and step.request.measure != "run" else ():
            if spec.is_made(known[name]) and step.request:
                raise ConfigError(
                    f"{source}: step {step.name!r} generates by the {step.request.measure} of dataset "
                    f"{name!r}, whose runs are simulated",
                    hint="name a dataset of data, or ask for so many events per run",
                )
