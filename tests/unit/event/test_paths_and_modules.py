"""Paths and modules: what is checked before the first event, parameters, conditional modules."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from beamwright.core.errors import ConfigError, ModuleError, UnknownNameError
from beamwright.event.batch import Batch
from beamwright.event.module import Builder, Constants, Module, Parameter
from beamwright.event.path import Output, Path, When
from beamwright.event.selection import condition
from support import toy

AVAILABLE = ("Header", "Hit")


class Reads(Module):
    def __init__(self, *reads: str, writes: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.reads, self.writes = reads, writes


def check(*modules: Any, outputs: list[Output] | None = None, tags: Any = None) -> tuple[str, ...]:
    return Path("p", "event", modules, outputs or []).check(toy.BANKS, AVAILABLE, tags)


def test_only_banks_that_are_needed_are_read_in_the_order_of_the_reader() -> None:
    assert check(Reads("Hit")) == ("Hit",)
    assert check(Reads("Hit"), outputs=[Output("o", ["Header"])]) == ("Header", "Hit")
    assert check() == ()


@pytest.mark.parametrize(
    ("module", "kind", "message", "hint"),
    [
        (Reads("Hitt"), UnknownNameError, "Hitt", "Hit"),
        (Reads(writes=("Summ",)), UnknownNameError, "Summ", "Sum"),
        (Reads("CalHit"), ModuleError, "nothing before it gives", "Hit"),
        (Reads("Gian@conditions"), UnknownNameError, "Gian", "Gain"),
    ],
)
def test_what_does_not_exist_is_refused_before_the_first_event(
    module: Module, kind: type[Exception], message: str, hint: str
) -> None:
    with pytest.raises(kind) as caught:
        check(module, tags=("Gain",))
    assert message in str(caught.value)
    assert hint in str(caught.value)
    assert "Reads" in str(caught.value)


def test_an_output_of_an_unknown_or_missing_bank_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="Headr"):
        check(outputs=[Output("o", ["Headr"])])
    with pytest.raises(ModuleError, match="output o of path p takes bank 'CalHit'"):
        check(outputs=[Output("o", ["CalHit"])])


def test_two_outputs_of_one_name_and_unknown_records_are_refused() -> None:
    with pytest.raises(ConfigError, match="two outputs called 'o'"):
        Path("p", "event", [], [Output("o", []), Output("o", [])])
    with pytest.raises(UnknownNameError, match="slyce"):
        Path("p", "slice", [], [Output("o", [], record="slyce")])


def test_a_conditional_module_may_only_make_new_banks_with_many_rows() -> None:
    with pytest.raises(ConfigError, match="one row per record"):
        check(When(Reads(writes=("Sum",)), "loud"))
    with pytest.raises(ConfigError, match="exists already"):
        check(When(Reads(writes=("Hit",)), "loud"))
    assert check(When(Reads("Hit", writes=("Shower",)), "loud")) == ("Hit",)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("loud", [1, 1, 0, 0]),
        ("not loud", [0, 0, 1, 1]),
        ("loud and not early", [0, 1, 0, 0]),
        ("(loud or early) and Header.energy >= 3", [0, 0, 1, 0]),
        ("1 < Header.energy <= 3", [0, 1, 1, 0]),
        ("Header.energy == 4 or Header.energy != Header.energy", [0, 0, 0, 1]),
        ("-1 > Header.energy", [0, 0, 0, 0]),
        ("1 == 1", [1, 1, 1, 1]),
    ],
)
def test_conditions_join_selections_and_columns(text: str, expected: list[int]) -> None:
    batch = Batch("event", "A", 1, [0] * 4, range(4), banks=toy.BANKS)
    batch["Header"] = {"time": [0.0] * 4, "energy": [1.0, 2.0, 3.0, 4.0]}
    batch.select(np.array([True, True, False, False]), "loud")
    batch.select(np.array([True, False, True, False]), "early")
    held = condition(text)
    held.check(toy.BANKS)
    assert held.mask(batch).tolist() == [bool(value) for value in expected]
    assert held.mask(batch.cut(0, 0)).tolist() == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("loud and", "is no condition"),
        ("loud + early", "'loud + early' is not known"),
        ("print(1)", "is not known"),
        ("Header.energy", "is not known"),
        ("Header.energy > high", "'high' is neither a number nor Bank.column"),
        ("Header.energy > 'a'", "neither a number nor"),
        ("__import__('os').x > 1", "neither a number nor"),
    ],
)
def test_what_is_no_condition_is_refused_when_the_path_is_made(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        Path("p", "event", [When(Reads(), text)])
    assert "Sum.energy > 20" in caught.value.hint


def test_columns_in_conditions_are_checked_before_the_first_event_and_read() -> None:
    assert check(When(Reads(), "Header.energy > 2")) == ("Header",)
    assert check(outputs=[Output("o", ["Hit"], select="Header.energy > 2")]) == ("Header", "Hit")
    for text, kind, message in (
        (
            "Haeder.energy > 2",
            UnknownNameError,
            "(in the condition of module Reads) is called 'Haeder'",
        ),
        ("Header.enrgy > 2", UnknownNameError, "no column of bank Header is called 'enrgy'"),
        ("Hit.charge > 2", ConfigError, "compares Hit.charge, which has not one value per record"),
        ("Sum.energy > 2", ModuleError, "compares bank 'Sum', which nothing before it gives"),
    ):
        with pytest.raises(kind, match=re.escape(message)):
            check(When(Reads(), text))
    with pytest.raises(UnknownNameError, match="in the select of output o"):
        check(outputs=[Output("o", ["Hit"], select="Haeder.energy > 2")])


class Nameless(Builder):
    pass


def test_builders_are_unconditional_alone_and_say_what_they_build() -> None:
    with pytest.raises(ConfigError, match="two builders"):
        Path("p", "slice", [toy.Split(), toy.Split()])
    with pytest.raises(ConfigError, match="conditional"):
        Path("p", "slice", [When(toy.Split(), "x")])
    with pytest.raises(ConfigError, match="what it builds"):
        Path("p", "slice", [Nameless()])


def test_records_after_a_builder_have_its_banks_only() -> None:
    path = Path("p", "slice", [toy.Split(), Reads("Pulse")])
    with pytest.raises(ModuleError, match="Pulse"):
        path.check(toy.BANKS, ("Pulse",))
    assert toy.bursts_path().records == ("slice", "burst")


def test_one_module_twice_in_a_path_gets_two_names() -> None:
    names = [step.name for step in Path("p", "event", [toy.Sum(), toy.Sum()]).steps]
    assert names == ["Sum", "Sum#2"]


class Tuned(Module):
    cut = Parameter(1.5, "ns", "largest time")
    tries = Parameter(3)
    label = Parameter("fast")
    strict = Parameter(False)


def test_parameters_have_defaults_units_and_types() -> None:
    module = Tuned(cut=2, label="slow")
    assert module.configuration() == {"cut": 2.0, "tries": 3, "label": "slow", "strict": False}
    assert (Tuned.parameters()["cut"].unit, Tuned.parameters()["cut"].doc) == ("ns", "largest time")
    assert Tuned().cut == 1.5


@pytest.mark.parametrize(("name", "value"), [("cut", "2"), ("tries", 2.5), ("tries", True), ("strict", 1)])
def test_a_parameter_of_another_type_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"parameter {name} of Tuned"):
        Tuned(**{name: value})


def test_unknown_parameters_and_modules_suggest_the_nearest() -> None:
    with pytest.raises(UnknownNameError) as caught:
        Tuned(cutt=1.0)
    assert "cut" in caught.value.hint
    path = Path("p", "event", [Tuned()])
    with pytest.raises(UnknownNameError, match="Tunde"):
        path.configure({"Tunde": {"cut": 1.0}})
    path.configure({"Tuned": {"cut": 4.0}})
    assert path.configuration()["Tuned"]["cut"] == 4.0


def test_constants_are_a_mapping_of_columns_with_their_payload() -> None:
    constants = Constants({"t0": [1.0]}, {"unit": "ns"}, "abc")  # type: ignore[dict-item]
    assert (list(constants), len(constants), constants.document, constants.payload_id) == (
        ["t0"],
        1,
        {"unit": "ns"},
        "abc",
    )
    with pytest.raises(UnknownNameError, match="t1"):
        _ = constants["t1"]


def test_a_builder_without_build_says_so() -> None:
    batch = Batch("slice", "A", 1, [], [], banks=toy.BANKS)
    with pytest.raises(TypeError, match="without build"):
        Nameless().build(batch)
