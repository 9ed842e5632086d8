"""The commands of the guides are typed as they stand there, in the workspace of the tutorial."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from support.guides import DOCS, Follower, files

TUTORIAL = "tutorials/your-first-experiment.md"
PRODUCTION = "bench/src/bench/first.toml"
pytestmark = pytest.mark.timeout(900)  # dozens of commands
DATE = {"2026-05-01": "2999-01-01"}  # what was there then: what is there


def _install(folder: Path, **changes: str) -> Follower:
    """Write and install the experiment of the tutorial, then take and deliver its data, with a run more."""
    reader = Follower(folder)
    texts = files(TUTORIAL)
    texts["take_data.py"] += 'take_run(folder / "run9.csv", 9, GAINS * 1.1)\n'
    texts["deliver.py"] = texts["deliver.py"].replace("(7, 8)", "(7, 8, 9)")
    for old, new in {"split = 500": "split = 2000", "[7, 8]": "[7, 8, 9]", **changes}.items():
        assert old in texts[PRODUCTION]
        texts[PRODUCTION] = texts[PRODUCTION].replace(old, new)
    reader.write(texts)
    for command in ("python -m pip install ./bench", "python take_data.py data", "beamwright init lab"):
        reader.run(command)
    reader.run("python deliver.py data lab")
    return reader


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Follower:
    """Give a workspace in which the tutorial's production is done; who follows a guide adds to it."""
    reader = _install(tmp_path_factory.mktemp("guides"))
    reader.run(f"beamwright produce ../{PRODUCTION}", where="lab")
    return reader


def _rows(reader: Follower, command: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in reader.run(f"{command} --json", where="lab").splitlines()]


def _unit(reader: Follower, step: str) -> str:
    """Return a unit of a step, as people call it."""
    return next(row["unit"] for row in _rows(reader, "beamwright job ls") if row["step"] == step)[:12]


def _outputs(reader: Follower) -> list[tuple[str, Path]]:
    """Return name and path of each DST that the reconstruction made."""
    rows = _rows(reader, "beamwright collection ls --where \"step == 'reco' and stream == 'dst'\"")
    shown = [_rows(reader, f"beamwright collection show {row['name']}")[0] for row in rows]
    return [(one["name"], Path(one["files"][0]["path"])) for one in shown]  # type: ignore[index]


def _block(page: str, begin: str) -> str:
    """Return the block of a page that begins so."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return begin + text.split(f"\n{begin}", 1)[1].split("```", 1)[0]


def test_a_production_is_operated(tmp_path: Path) -> None:
    page = "how-to/operate-a-production.md"
    reader = _install(tmp_path, **{"freeze = true\n": "", '"bench-2026"': '"bench"'})
    prompt = (tmp_path / PRODUCTION).read_text(encoding="utf-8")
    head, _, rest = prompt.partition('[[step]]\nname = "gains"')
    again = (
        head.replace('"first"', '"again"').replace('global_tag = "bench"', 'global_tag = "bench-2026a"')
        + rest[rest.index("[[") :]
    )
    reader.write({"lab/first.toml": prompt, "lab/prompt.toml": prompt, "lab/again.toml": again})
    reader.write({"lab/map.txt": _block(page, "channel  pedestal")})
    hold = "beamwright calibration hold bench/9 --reason look"
    reader.follow(
        page,
        where="lab",
        swaps={"Pedestal": "Gain", "5e12ef920fa5": lambda: _unit(reader, "reco")} | DATE,
        before={
            "beamwright calibration hold": ["beamwright calibration skip-back bench/9 --reason wrong"],
            "beamwright calibration reject": [hold],
        },
        leave=["beamwright init"],
    )
    states = {row["name"]: row["state"] for row in _rows(reader, "beamwright task ls")}
    assert set(states.values()) == {"closed"} and len(states) == 5


def test_a_crash_is_recovered_from(lab: Follower) -> None:
    lab.follow("how-to/resume-after-a-crash.md", where="lab", swaps={"first.toml": f"../{PRODUCTION}"})


def test_tasks_are_managed(lab: Follower) -> None:
    lab.follow(
        "how-to/manage-tasks.md",
        where="lab",
        swaps={
            "night.toml": f"../{PRODUCTION}",
            "night/": "first/",
            "3f9a41c2": lambda: _unit(lab, "reco"),
            "A/6633": "bench/7",
        },
        leave=["beamwright task redo"],
    )


def test_the_database_is_kept(lab: Follower) -> None:
    def newest(kind: str) -> str:
        return _rows(lab, f"beamwright db {kind}")[-1 if kind == "backups" else 0][
            "head" if kind == "show" else "file"
        ]

    lab.follow(
        "how-to/keep-the-database.md",
        where="lab",
        swaps={
            "backups/20261122T012719Z.zip": lambda: newest("backups"),
            "c0815bf5c75d": lambda: newest("show")[:12],
        },
        leave=["beamwright db restore backups/20261122T012719Z.zip", "beamwright db move"],
    )


def test_files_are_merged_and_split(lab: Follower) -> None:
    out = lab.folder / "merging" / "out"
    out.mkdir(parents=True)
    for number, (_, path) in enumerate(_outputs(lab)):
        shutil.copy(path, out / f"{number}.root")
    names = " ".join(f"out/{number}.root" for number in range(len(_outputs(lab))))
    lab.follow(
        "how-to/merge-and-split.md",
        where="merging",
        swaps={"out/*.root": names, "part.root --bytes": "piece.root --bytes", "100000": "1000"},
    )
    assert len(list((lab.folder / "merging").glob("part.*.root"))) == 6


def test_files_of_others_are_registered(lab: Follower) -> None:
    page = "how-to/register-files.md"
    told = _block(page, '{"name": "dst:run42').replace("\n", "").replace('"…"', '"%s"')
    record = json.loads(told % ("a" * 64, "b" * 8))
    held = {"name": "dst:42", "tier": "dst", "stream": "dst", "series": "B", "first": 42, "last": 42}
    lists = {
        "files": record,
        "collections": held | {"files": [record["name"]], "events": 9},
        "again": held | {"files": [record["name"]], "events": 8},
        "luminosity": {"series": "B", "number": 42, "luminosity": 17.6},
    }
    lab.write({f"lab/{name}.jsonl": json.dumps(one) + "\n" for name, one in lists.items()})
    lab.write({"lab/beam.toml": _block("reference/records.md", 'name = "beam"')})
    lab.follow(page, where="lab", swaps=DATE)
    said = _rows(lab, "beamwright metadata show run B/42")[0]
    assert said["beam"] == {"energy": 5.29, "note": "stable beams"}


def test_datasets_are_defined_frozen_and_compared(lab: Follower) -> None:
    name = _outputs(lab)[0][0]
    second = ["beamwright dataset define ana:phi --where \"tier == 'dst' and step == 'reco' and run == 8\""]
    lab.follow(
        "how-to/use-datasets-and-time-travel.md",
        where="lab",
        swaps={
            "5000..5200 and quality.good('calo')": "7..8 and step == 'reco'",
            "p:reco/dst.1": name,
            "7f3a91c04e2b": lambda: _rows(lab, "beamwright conditions get bench-2026 bench/8")[0]["payload"][
                :12
            ],
            "sha256:1f2e…": lambda: _rows(lab, f"beamwright collection show {name}")[0]["release"],
            "B/42": "bench/7",
        }
        | DATE,
        before={
            "beamwright dataset since ana:phi 1": second,
            "beamwright dataset diff": ["beamwright dataset freeze ana:phi"],
        },
    )


def test_constants_are_carried_to_other_places(lab: Follower, tmp_path: Path) -> None:
    lab.run(f"beamwright init {tmp_path / 'mirror'}")
    there = f"--workspace {tmp_path / 'mirror'}"
    lab.follow(
        "how-to/mirror-conditions.md",
        where="lab",
        swaps={
            "orca-real 44/6884..6890 --to /tmp/out": f"bench-2026 bench/7..8 --to {tmp_path}",
            "/tmp/out/*.bwc --as central": lambda: f"{next(tmp_path.glob('*.bwc'))} --as central {there}",
            " > token": "",
            "https://central.example --token-file token --every 300": f"{lab.folder / 'lab'} {there}",
        },
        leave=["beamwright up"],
    )
    tags = _rows(lab, f"beamwright conditions ls --global {there}")
    assert {row["name"]: row["state"] for row in tags} == {"bench-2026": "frozen", "central": "open"}


def test_outputs_are_looked_at(lab: Follower) -> None:
    (name, path), *_ = _outputs(lab)
    for command in (
        "quality set bench/7 calo good --new --reason clean",
        f"collection export {name} -o dst.parquet",
        f"file show {path}",
        "file where",
        "site check",
        "event show bench:7:1:0 --bank Hit",
    ):
        lab.run(f"beamwright {command}", where="lab")
    assert (lab.folder / "lab/dst.parquet").stat().st_size > 0


WIDTHS = """
from beamwright.core.histogram import Axis
from beamwright.event.module import Module
from beamwright.event.path import Output, Path


class Widths(Module):
    reads = ["Shower"]

    def book(self, histograms):
        self.energies = histograms.book("energy", Axis(20, 0.0, 10.0))

    def process(self, batch):
        batch.fill(self.energies, batch["Shower"].energy)


def path():
    return Path("widths", "event", [Widths()], [Output("table", ["Shower"])])
"""


def test_an_analyst_analyses_in_a_scope_of_their_own(lab: Follower) -> None:
    page = "how-to/analyse-in-your-own-scope.md"
    told = (
        _block(page, 'name = "widths"')
        .replace('"orca"', '"bench"')
        .replace("orca-real:reco.dst", "first:reco.dst")
    )
    lab.write({"lab/widths.toml": told, "lab/code/widths.py": WIDTHS})
    lab.follow(page, where="lab")
    made = _rows(lab, "beamwright file ls --where \"scope == 'user.ada.widths'\"")
    assert sorted(row["kind"] for row in made) == ["bundle", "bundle", "parquet", "parquet"]


STEERING = """
from beamwright.event.batch import Table
from beamwright.event.module import Module
from beamwright.event.path import Output, Path
from bench.reader import BANKS as banks
from bench.reader import BenchReader as reader


class Sum(Module):
    reads = ["Hit"]
    writes = ["Shower"]

    def process(self, batch):
        hits = batch["Hit"]
        if {bad}:
            raise ValueError("too odd for words")
        energy = 0.05 * hits.adc.astype("f4")
        total = [float(sum(energy[a:b])) for a, b in zip(hits.offsets, hits.offsets[1:])]
        batch["Shower"] = Table.one("Shower", {{"energy": total, "hits": hits.counts}})


path = Path("reco", "event", [Sum()], [Output("dst", ["Hit", "Shower"])])
"""
SKIM = """
from beamwright.event.path import Output, Path

path = Path("skim", "event", [], [Output("skim", ["Shower"], tier="skim")])
"""


def test_a_pass_is_watched_and_mended(lab: Follower) -> None:
    page, folder = "how-to/watch-and-mend-a-pass.md", "mending"
    steering, mended = STEERING.format(bad="(batch.event % 100 == 7).any()"), STEERING.format(bad="False")
    lab.write({f"{folder}/steering.py": steering, f"{folder}/skim.py": SKIM})
    shutil.copy(_outputs(lab)[0][1], lab.folder / folder / "dst.root")
    shutil.copy(lab.folder / "data/run7.csv", lab.folder / folder / "raw.dat")
    lab.follow(
        page,
        where=folder,
        swaps={"steering.py -i dst.root": "skim.py -i dst.root", "raw.dat": "raw.dat --series bench --run 7"},
        before={
            "beamwright process steering.py -i raw.dat -o dst=again.root": [
                lambda: lab.write({f"{folder}/steering.py": mended})
            ]
        },
    )
    first, again, whole = (
        _rows(lab, f"beamwright file show ../{folder}/{name}.root")[0] for name in ("first", "again", "whole")
    )
    assert again["events"] == len(first["lineage"]["quarantined"]) > 0
    assert whole["events"] == first["events"] + again["events"] and not whole["lineage"]["quarantined"]
