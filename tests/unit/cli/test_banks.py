"""``bank check``, ``show`` and ``diff`` on the declarations of every sample experiment."""

from __future__ import annotations

from pathlib import Path

import pytest

from beamwright.event.banks import BankSet

EXPERIMENTS = {
    "orca": ("banks/raw.toml", "banks/reco.toml"),
    "dimuon": ("banks.toml",),
    "drift": ("banks.toml",),
}


@pytest.fixture(params=EXPERIMENTS)
def declared(request) -> tuple[str, list[Path]]:
    module = pytest.importorskip(request.param, reason="the sample experiment is not installed")
    folder = Path(module.__file__ or "").parent
    return request.param, [folder / name for name in EXPERIMENTS[request.param]]


def test_the_declarations_are_checked(call, declared) -> None:
    _, files = declared
    found = call("bank", "check", *files, "--json").document
    banks = BankSet.load(*files)
    assert found == {
        "banks": sorted(banks),
        "columns": sum(len(bank.columns) for bank in banks.values()),
        "hash": banks.hash,
    }


def test_every_bank_is_shown_with_types_units_and_links(call, declared) -> None:
    experiment, files = declared
    banks = BankSet.load(*files)
    listed = {row["name"] for row in call("bank", "ls", "--experiment", experiment, "--json").rows}
    assert listed >= set(banks)
    for name, bank in banks.items():
        shown = call("bank", "show", name, "--experiment", experiment)
        assert shown.code == 0 and bank.doc in shown.out
        for column in bank.columns:
            (line,) = [line for line in shown.out.splitlines() if line.split()[:1] == [column.name]]
            assert column.document()["type"] in line and column.unit in line and column.link in line


def test_a_change_is_told_and_whether_old_files_are_read(call, declared, tmp_path: Path) -> None:
    _, files = declared
    old = files[-1]
    same = call("bank", "diff", old, old, "--json")
    assert (same.code, same.rows) == (0, [])
    banks = BankSet.load(old, closed=False)
    name, bank = next((n, b) for n, b in banks.items() if not b.links)
    first = bank.columns[0].name
    changed = old.read_text().replace(
        f"[bank.{name}.columns]", f'[bank.{name}.columns]\nadded = {{ type = "str" }}', 1
    )
    (tmp_path / "new.toml").write_text(changed)
    refused = call("bank", "diff", old, tmp_path / "new.toml", "--json")
    changes = {(row["bank"], row["column"], row["is_readable"]) for row in refused.rows}
    assert (name, "added", False) in changes and refused.code != 0 and first not in {c for _, c, _ in changes}
    (tmp_path / "new.toml").write_text(changed.replace('type = "str"', 'type = "str", default = "-"'))
    assert call("bank", "diff", old, tmp_path / "new.toml").code == 0


def test_an_error_names_file_and_line(call, declared, tmp_path: Path) -> None:
    _, files = declared
    lines = files[0].read_text().splitlines()
    at = next(n for n, line in enumerate(lines) if "type = " in line)
    lines[at] = lines[at].replace("type = ", "typo = ", 1)
    (tmp_path / "wrong.toml").write_text("\n".join(lines))
    result = call("bank", "check", tmp_path / "wrong.toml", *files[1:])
    assert result.code == 2 and f"wrong.toml, line {at + 1}: bank " in result.err and "typo" in result.err
