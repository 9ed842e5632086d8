"""What an experiment's code says of a step: asked once, when a production starts, and kept with the task."""

from __future__ import annotations

import json
import sys

from beamwright.core.errors import ConfigError, UnknownNameError
from beamwright.event.path import Path as EventPath
from beamwright.production import experiment as experiments
from beamwright.production.experiment import Experiment
from beamwright.production.spec import ProductionSpec, StepSpec, split_input
from beamwright.production.tasks import Facts


def step_facts(experiment: Experiment, step: StepSpec) -> Facts:
    """Return a step's facts.

    Raises: UnknownNameError for a path or calibration that the experiment does not have.
    """
    if step.kind in ("process", "generate"):
        path = experiment.make_path(step.path, step.parameters)
        if step.request is not None:
            _check_generator(experiment, path, step)
        return Facts(
            path.record, {o.stream: o.tier for o in path.outputs}, tuple(path.conditions), (), (path.record,)
        )
    if step.kind == "calibrate":
        calibrations = [experiment.make_calibration(name, step.parameters) for name in step.calibrations]
        tags = tuple(sorted({tag for c in calibrations for tag in c.tags}))
        reads = {role for c in calibrations for role in c.conditions}
        return Facts(
            "", {}, tuple(sorted(reads | set(tags))), tags, tuple(sorted({c.record for c in calibrations}))
        )
    return Facts()


def production_facts(experiment: Experiment, spec: ProductionSpec) -> dict[str, Facts]:
    """Return the facts of all steps, and check that each ``step.stream`` that is read is written.

    Raises: UnknownNameError.
    """
    facts: dict[str, Facts] = {}
    pointers: set[str] = set()
    for step in spec.step:
        for name in step.inputs:
            head, stream = split_input(name)
            if stream and stream not in facts[head].streams:
                raise UnknownNameError(f"stream of step {head!r}", stream, facts[head].streams)
        facts[step.name] = step_facts(experiment, step)
        if step.kind in ("process", "generate"):
            _check_readable(step, pointers)
            pointers |= _check_outputs(experiment, spec, step)
        if step.kind == "merge":
            pointers |= {f"{step.name}.{split_input(name)[1]}" for name in step.inputs if name in pointers}
            facts[step.name] = Facts("", {s: facts[h].streams[s] for h, s in map(split_input, step.inputs)})
    _check_chains(spec, facts)
    return facts


def main() -> None:
    """Read a production file's document and write its facts: how another release is asked for them."""
    spec = ProductionSpec.model_validate_json(sys.stdin.read())
    found = production_facts(experiments.load(spec.experiment), spec)
    sys.stdout.write(json.dumps({name: one.document() for name, one in found.items()}))


def _check_chains(spec: ProductionSpec, facts: dict[str, Facts]) -> None:
    """Chains may wait for each other's constants, in one direction.

    Raises: ConfigError, naming those that would wait for ever.
    """
    left = {step.name: facts[step.name] for step in spec.step if step.kind == "calibrate"}
    while left:
        makers = {role for known in left.values() for role in known.tags}
        free = [n for n, known in left.items() if not (set(known.reads) - set(known.tags)) & set(makers)]
        if not free:
            raise ConfigError(
                f"the calibrations {', '.join(left)} wait for each other's constants",
                hint="make them one step, with rounds, or read the constants of one direction only",
            )
        left = {name: known for name, known in left.items() if name not in free}


def _check_outputs(experiment: Experiment, spec: ProductionSpec, step: StepSpec) -> set[str]:
    """Units write one file per stream; pointer skims lead into files that stay: not into raw data, nor into
    what a merge replaces. Return the pointer skims that the step writes.

    Raises: ConfigError.
    """
    outputs = experiment.make_path(step.path, step.parameters).outputs
    split = next((output.stream for output in outputs if output.split), None)
    if split is not None:
        raise ConfigError(
            f"step {step.name!r} splits the stream {split!r} into files; a unit of a production writes one",
            hint="leave it out of the path, and give the step a split, the merge a target_mb",
        )
    streams = [output.stream for output in outputs if output.pointer]
    if not streams:
        return set()
    stream = streams[0]
    merged = {name: other.name for other in spec.step if other.kind == "merge" for name in other.inputs}
    for name in step.inputs:
        if not split_input(name)[1]:
            raise ConfigError(
                f"step {step.name!r} writes the pointer skim {stream!r} of dataset {name!r}",
                hint="pointers lead into files that beamwright wrote: read a step's stream",
            )
        if name in merged:
            raise ConfigError(
                f"step {step.name!r} points with {stream!r} into {name!r}, which {merged[name]!r} merges",
                hint=f"read {merged[name]}.{split_input(name)[1]}: the merged files are those that stay",
            )
    return {f"{step.name}.{name}" for name in streams}


def _check_readable(step: StepSpec, pointers: set[str]) -> None:
    """Jobs get their inputs and nothing else: not the files that a pointer skim leads into.

    Raises: ConfigError.
    """
    name = next((name for name in step.inputs if name in pointers), None)
    if name is not None:
        raise ConfigError(
            f"step {step.name!r} reads the pointer skim {name!r}, and jobs get only the files they read",
            hint="write a deep copy for steps to read, beside the pointer skim or in its place",
        )


def _check_generator(experiment: Experiment, path: EventPath, step: StepSpec) -> None:
    """The modules of a generation start from nothing, or from what a command makes.

    Raises: ConfigError, UnknownNameError, ModuleError.
    """
    if path.builder is not None:
        hint = "generate records of one kind, and build others from them in a step of its own"
        raise ConfigError(f"step {step.name!r} generates with path {step.path!r}, which builds", hint=hint)
    if step.request is None or not step.request.reader:
        path.check(experiment.banks, ())
    elif step.request.reader not in experiment.readers:
        raise UnknownNameError(f"reader of {experiment.name}", step.request.reader, experiment.readers)
