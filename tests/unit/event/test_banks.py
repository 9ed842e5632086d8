"""Declarations of banks: what they say, and what is refused with a hint."""

from __future__ import annotations

from pathlib import Path

import pytest

from beamwright.core.errors import ConfigError, UnknownNameError
from beamwright.event.banks import Bank, BankSet

GOOD = """
[bank.Hit]
doc = "A hit."
[bank.Hit.columns]
t = { type = "f8", unit = "ns", doc = "Time." }
samples = { type = "u2[]" }

[bank.Track]
version = 3
[bank.Track.columns]
seed = { type = "link", to = "Hit" }
hits = { type = "link[]", to = "Hit" }

[bank.Header]
rows = "one"
[bank.Header.columns]
run = { type = "u4" }
"""


def load(folder: Path, text: str) -> BankSet:
    path = folder / "banks.toml"
    path.write_text(text)
    return BankSet.load(path)


def test_a_declaration_gives_columns_with_types_units_links_and_order(tmp_path: Path) -> None:
    banks = load(tmp_path, GOOD)
    assert list(banks) == ["Hit", "Track", "Header"]
    assert (banks["Hit"]["t"].dtype.str, banks["Hit"]["t"].unit, banks["Hit"]["samples"].jagged) == (
        "<f8",
        "ns",
        True,
    )
    assert [(c.name, c.link, c.type, c.jagged) for c in banks["Track"].links] == [
        ("seed", "Hit", "i4", False), ("hits", "Hit", "i4", True),
    ]  # fmt: skip
    assert (banks["Track"].version, banks["Header"].rows, banks["Hit"].rows) == (3, "one", "many")


def test_the_document_of_a_set_gives_the_same_set_back(tmp_path: Path) -> None:
    banks = load(tmp_path, GOOD)
    again = BankSet.from_document(banks.document())
    assert dict(again) == dict(banks)
    assert again.hash == banks.hash
    assert BankSet([banks["Hit"]]).hash != banks.hash


@pytest.mark.parametrize(
    ("old", "new", "named", "hint"),
    [
        ('type = "f8"', 'type = "f9"', "Hit, column t", "f8"),
        ('to = "Hit" }\nhits', 'to = "Hits" }\nhits', "Track, column seed", "Hit"),
        ('doc = "A hit."', 'dok = "A hit."', "'dok'", "doc"),
        ('unit = "ns"', 'units = "ns"', "'units'", "unit"),
        ('rows = "one"', 'rows = "two"', "bank Header", '"one" or "many"'),
        ("version = 3", "version = 0", "bank Track", "from 1"),
        ("[bank.Header]", "[bank.event]", "bank event", "choose another"),
        ('run = { type = "u4" }', "", "bank Header has no column", "declare at least one"),
        ('seed = { type = "link", to = "Hit" }', 'seed = { type = "link" }', "Track, column seed", "link"),
        ("t = {", "2t = {", "'2t' is no name", "letters"),
        ("[bank.Track]", "[banks.Track]", "'banks'", "bank"),
    ],
)
def test_a_wrong_declaration_is_refused_with_its_place_and_a_hint(
    tmp_path: Path, old: str, new: str, named: str, hint: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load(
            tmp_path,
            GOOD.replace(old, new)
            .replace("[bank.event.columns]", "")
            .replace(
                "[bank.Header.columns]",
                "[bank.Header.columns]" if "event" not in new else "[bank.event.columns]",
            ),
        )
    assert named in caught.value.message
    assert hint in caught.value.hint
    assert "banks.toml" in caught.value.message or "declared" in caught.value.message


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('[bank.A]\nrows = "two"\n[bank.A.columns]\nx = { type = "f4" }', 1),
        ('[bank.A.columns]\n# one\nx = { type = "f4" }\n\ny = { type = "f9" }  # two', 5),
        ('[bank.A]\n[bank.A.columns]\nx.unit = "ns"\nx.type = "f9"', 3),
        ('[bank.A.columns.x]\ntype = "f4"\n\n["bank".A.columns."y"]\ntype = "f9"', 4),
        ('bank.A.columns.x = { type = "f4" }\nbank.A.columns.y = { type = "link", to = "B" }', 2),
        ('bank.A = { version = 0, columns = { x = { type = "f4" } } }', 1),
        ('[bank]\nA = { columns = { x = { type = "f9" } } }', 2),
        ('[bank.A.columns]\ndoc = "a [bank.A.columns.x] = 1"\n', 2),
        ('[bank.B]\ncolumns = { x = { type = "f4" } }\n[bank.A]\ncolumns = 3', 3),
    ],
)
def test_a_wrong_declaration_is_told_with_its_line(tmp_path: Path, text: str, line: int) -> None:
    with pytest.raises(ConfigError, match=rf"banks\.toml, line {line}: bank A"):
        load(tmp_path, text)


def test_a_bank_of_two_files_is_told_with_both_places(tmp_path: Path) -> None:
    for name, kind in (("one", "f4"), ("two", "f8")):
        (tmp_path / f"{name}.toml").write_text(f'# {name}\n[bank.A.columns]\nx = {{ type = "{kind}" }}')
    with pytest.raises(
        ConfigError, match=r"two\.toml, line 2: bank A is .* first as .*one\.toml, line 2: bank A"
    ):
        BankSet.load(tmp_path / "one.toml", tmp_path / "two.toml")
    assert list(BankSet.load(tmp_path / "one.toml", tmp_path / "one.toml")) == ["A"]


def test_broken_toml_names_file_and_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"banks\.toml is no TOML: .*line 1"):
        load(tmp_path, "[bank.Hit\n")


def test_a_missing_file_and_an_unknown_bank_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml"):
        BankSet.load(tmp_path / "nowhere.toml")
    with pytest.raises(UnknownNameError) as caught:
        load(tmp_path, GOOD)["Trak"]
    assert "Track" in caught.value.hint


def test_two_declarations_of_one_bank_must_agree(tmp_path: Path) -> None:
    banks = load(tmp_path, GOOD)
    other = Bank.from_document("Hit", {"columns": {"t": {"type": "f4"}}})
    with pytest.raises(ConfigError, match="Hit is declared twice"):
        banks.union(BankSet([other]))
    assert list(banks.union(banks.subset(["Hit"]))) == list(banks)
