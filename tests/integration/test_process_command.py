"""``beamwright process``: ranges, limits, quarantine, statistics, profile."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from beamwright.cli.progress import line
from beamwright.core.histogram import HistogramSet
from beamwright.event.collection import CollectionReader
from beamwright.event.metadata import read_metadata
from beamwright.event.rntuple import verify
from beamwright.event.validate import validate_file
from support import toy
from support.streams import same_batches

STEERING = """
import os, signal, time
import numpy as np
from beamwright.event.module import Module, Parameter
from support import toy

class Risky(Module):
    "Fails on one event, as the environment says."
    how = Parameter("{how}", "", "what happens")
    slow = Parameter(0.0, "s", "time for each batch")

    def process(self, batch):
        time.sleep(self.slow)
        if np.any((batch.section == 2) & (batch.event == 3)):
            if self.how == "segfault":
                os.kill(os.getpid(), signal.SIGSEGV)
            while self.how == "loop":
                time.sleep(0.01)

banks = toy.BANKS
reader = toy.ToyReader
path = toy.events_path(Risky())
"""


@dataclass
class Desk:
    """A folder with raw data, in which commands are run as a user would."""

    folder: Path

    def __post_init__(self) -> None:
        toy.write_raw(self.folder / "raw.json", "A", 7, {"event": toy.grid(range(1, 6), 20)})

    def steer(self, how: str) -> None:
        (self.folder / "steering.py").write_text(STEERING.format(how=how))

    def run(self, *arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
        script = "import sys; from beamwright.cli.main import run; sys.exit(run(sys.argv[1:]))"
        paths = os.pathsep.join([str(Path(toy.__file__).parents[1]), *filter(None, sys.path)])
        done = subprocess.run(
            [sys.executable, "-c", script, *map(str, arguments)], cwd=self.folder, capture_output=True,
            text=True, check=False, env=os.environ | {"PYTHONPATH": paths},
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        return done

    def process(self, *arguments: object, code: int = 0) -> Any:
        fixed = ("process", "steering.py", "-i", "raw.json", "--series", "A", "--run", 7, "--json")
        done = self.run(*fixed, *arguments, code=code)
        return json.loads(done.stdout) if code == 0 else done.stderr


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_what_crashes_one_worker_is_quarantined_mended_and_put_back(desk: Desk) -> None:
    desk.steer("segfault")
    first = desk.process("-o", "dst=first.root", "--quarantine", "bad.jsonl", "--workers", 1)
    (bad,) = [json.loads(text) for text in (desk.folder / "bad.jsonl").read_text().splitlines()]
    assert (bad["key"], bad["module"], bad["error"]) == ("A:7:2:3", "Risky", "killed by SIGSEGV")
    assert "steering.py" in bad["traceback"]
    assert first["ledger"][0]["written"] == 99
    text = (desk.folder / "steering.py").read_text().replace("os.kill(os.getpid(), signal.SIGSEGV)", "pass")
    (desk.folder / "steering.py").write_text(text)  # the module is mended, its parameters are not touched
    again = desk.process("-o", "dst=again.root", "--quarantine-only", "bad.jsonl")
    assert again["ledger"][0] | {"interval": None} == {
        "record": "event", "stream": "dst", "interval": None, "read": 1, "created": 0, "written": 1,
        "filtered": 0, "prescaled": 0, "quarantined": 0,
    }  # fmt: skip
    refused = desk.run("merge", "first.root", "again.root", "-o", "no.root", code=4)
    assert "overlap" in refused.stderr and "--interleave" in refused.stderr
    desk.run("merge", "first.root", "again.root", "-o", "whole.root", "--interleave")
    desk.process("-o", "dst=direct.root")
    whole, direct = (read_metadata(desk.folder / name) for name in ("whole.root", "direct.root"))
    assert (whole.events, whole.first, whole.last) == (100, direct.first, direct.last)
    assert whole.lineage.quarantined == () == direct.lineage.quarantined
    assert validate_file(desk.folder / "whole.root")["valid"]
    proved = [verify(desk.folder / name) for name in ("whole.root", "direct.root")]
    assert proved[0].checksums == proved[1].checksums  # page for page as if it had never crashed


def test_an_output_that_is_there_or_cannot_be_is_refused_by_name(desk: Desk) -> None:
    desk.steer("nothing")
    (desk.folder / "dst.root").write_text("kept")
    told = desk.process("-o", "dst=dst.root", code=3)
    assert "dst.root exists already" in told and "name another file, or remove it" in told
    assert (desk.folder / "dst.root").read_text() == "kept"
    told = desk.process("-o", "dst=nowhere/dst.root", code=9)
    assert "nowhere/dst.root cannot be written: No such file" in told and "make its folder" in told


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("path = (\n", "steering.py:1: '(' was never closed", "correct this line"),
        ("import nowhere_at_all\n", "steering.py:1: ModuleNotFoundError", "install nowhere_at_all"),
        ("x = 1\ny = 1 / 0\n", "steering.py:2: ZeroDivisionError", "correct it there"),
        ("def path():\n    return 1 / 0\n", "steering.py:2: ZeroDivisionError", "correct it there"),
        ("path = 3\n", "`path` in steering.py is a int, no Path", "define path = Path(...)"),
        ("pth = 3\n", "steering.py defines no `path`", "did you mean pth?"),
    ],
)
def test_a_steering_file_that_fails_is_an_error_at_its_line(
    desk: Desk, text: str, message: str, hint: str
) -> None:
    (desk.folder / "steering.py").write_text(text)
    told = json.loads(desk.process("-o", "dst=dst.root", code=2))
    assert message in told["message"] and hint in told["hint"]


def test_limits_of_time_are_kept_with_one_worker(desk: Desk) -> None:
    desk.steer("loop")
    document = desk.process("--event-seconds", 0.2, "--batch-events", 10, "--memory", 500)
    (bad,) = document["quarantined"]
    assert (bad["key"], bad["error"]) == ("A:7:2:3", "more than 0.2 s")
    assert "steering.py" in bad["traceback"] and "engine.py" not in bad["traceback"]
    told = desk.process("--event-seconds", 0.2, "--batch-events", 10, "--most-quarantined", 0, code=5)
    assert "module Risky fails on more than 0 records" in told


@pytest.mark.parametrize(
    ("given", "read"), [("10:30", 20), ("90:", 10), (":7", 7), ("7", 7), ("0:1000", 100)]
)
def test_a_range_of_events_is_worked_on(desk: Desk, given: str, read: int) -> None:
    desk.steer("nothing")
    document = desk.process("--events", given, "-o", "dst=dst.root")
    assert document["ledger"][0]["read"] == read
    if given == "10:30":
        metadata = read_metadata(desk.folder / "dst.root")
        assert (metadata.first, metadata.last) == ((7, 1, 10), (7, 2, 9))


def test_a_range_that_holds_nothing_is_refused(desk: Desk) -> None:
    desk.steer("nothing")
    assert "'5:5' holds no record" in desk.process("--events", "5:5", code=2)
    assert "'a:b' is no range of records" in desk.process("--events", "a:b", code=2)
    assert "there is no record 100: the inputs hold 100" in desk.process("--events", "100:", code=2)


def test_statistics_and_profile_are_shown_at_the_end(desk: Desk) -> None:
    desk.steer("nothing")
    fixed = ("process", "steering.py", "-i", "raw.json", "--series", "A", "--run", 7, "--batch-events", 10)
    done = desk.run(*fixed, "--profile", "--profile-file", "profile.json")
    assert "100 of 100 records" in done.stderr
    statistics, profile = done.stderr.split("\n\n")[-2:]
    assert "start-up s" in statistics and "memory MB" in statistics and "Risky" in statistics
    rows = [text.split() for text in profile.splitlines() if text.split()[1:2] == ["process"]]
    assert {row[0] for row in rows} == {"Plain", "Risky", "Sum", "Shower"}
    assert all(row[2] == "10" for row in rows if row[0] != "Shower")
    scope = json.loads((desk.folder / "profile.json").read_text())
    names = [frame["name"] for frame in scope["shared"]["frames"]]
    assert {"Risky", "Risky.process", "Sum.prepare"} <= set(names)
    (one,) = scope["profiles"]
    assert len(one["samples"]) == len(one["weights"]) and sum(one["weights"]) == one["endValue"] > 0
    assert "seconds" not in done.stdout
    document = desk.process("--profile")
    assert document["statistics"]["modules"]["Sum"]["records"] == 100
    hooks = {(row["module"], row["hook"]) for row in document["statistics"]["profile"]}
    assert {("Sum", "process"), ("Sum", "begin_run"), ("Sum", "end_run"), ("Sum", "prepare")} <= hooks


def test_people_read_a_table_of_the_quarantine_and_each_traceback_once(desk: Desk) -> None:
    desk.steer("raise")
    text = (desk.folder / "steering.py").read_text()
    text = text.replace("class Risky(Module)", "class Risky(EventModule)").replace(
        "    def process(self, batch):", "    def event(self, event):"
    )
    text = text[: text.index("        time.sleep")] + (
        "        if event.key.event == 3:\n            raise KeyError()\n" + text[text.index("\nbanks") :]
    )
    (desk.folder / "steering.py").write_text("from beamwright.event.perevent import EventModule\n" + text)
    fixed = ("process", "steering.py", "-i", "raw.json", "--series", "A", "--run", 7, "-o", "dst=dst.root")
    lines = desk.run(*fixed).stdout.splitlines()
    rows = [text.split() for text in lines if text.startswith("  A:7:")]
    assert rows == [[f"A:7:{section}:3", "event", "Risky", "KeyError"] for section in range(1, 6)]
    (at,) = [n for n, text in enumerate(lines) if text == "Risky, A:7:1:3"]
    assert lines[at + 1].startswith('  File "steering.py", line ') and lines[-1] == "KeyError"
    assert sum("Traceback" in text or "File" in text for text in lines) == 1


def test_histograms_are_written_and_do_not_depend_on_workers(desk: Desk) -> None:
    desk.steer("nothing")
    found = [
        desk.process("--workers", workers, "--batch-events", size, "--histograms", f"{workers}.bundle")
        for workers, size in ((1, 7), (2, 13))
    ]
    assert (desk.folder / "1.bundle").read_bytes() == (desk.folder / "2.bundle").read_bytes()
    held = HistogramSet.from_bytes((desk.folder / "1.bundle").read_bytes())
    told = [{"name": n, "entries": h.entries, "bins": [a.bins for a in h.axes]} for n, h in held.items()]
    assert told and found[0]["histograms"] == found[1]["histograms"] == sorted(told, key=lambda h: h["name"])
    assert sum(histogram.entries for histogram in held.values()) > 0
    assert desk.run("file", "show", "1.bundle", "--json").returncode == 0


BURSTS = """
import numpy as np
from beamwright.event.module import Module, Parameter
from support import toy

class Picky(Module):
    "Fails on bursts that are the second of their slice, of some slices."
    reads = ("Burst",)

    def process(self, batch):
        if {fails} and np.any((batch["Burst"].number == 1) & (batch.parent_event % 5 == 2)):
            raise ValueError("a second burst")

class PickySlice(Module):
    "Fails on one slice."

    def process(self, batch):
        if {fails} and np.any((batch.section == 3) & (batch.event == 8)):
            raise ValueError("a bad slice")

banks = toy.BANKS
reader = toy.ToyReader
split = toy.bursts_path(Picky())
modules = [PickySlice(), *(step.module for step in split.steps)]
path = type(split)("bursts", "slice", modules, split.outputs)
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_records_that_a_builder_makes_are_made_again_alone(desk: Desk, workers: int) -> None:
    toy.write_raw(desk.folder / "raw.json", "A", 7, {"slice": toy.grid(range(1, 6), 20)})
    streams = ("burst", "early", "slices")

    def run(name: str, fails: bool, *options: object) -> Any:
        (desk.folder / "steering.py").write_text(BURSTS.format(fails=fails))
        outputs = [word for stream in streams for word in ("-o", f"{stream}={name}-{stream}.root")]
        return desk.process(*outputs, "--workers", workers, *options)

    first = run("first", True, "--quarantine", "bad.jsonl")
    bad = [json.loads(text) for text in (desk.folder / "bad.jsonl").read_text().splitlines()]
    made = [row for row in bad if row["record"] == "burst"]
    assert len(made) == len(bad) - 1 > 5 and first["quarantined"] == bad
    assert all(int(row["key"].split(":")[3]) // 100 == int(row["parent"].split(":")[3]) for row in made)
    again = run("again", False, "--quarantine-only", "bad.jsonl")
    lines = {(line["record"], line["stream"]): line for line in again["ledger"]}
    assert lines["slice", "slices"] | {"interval": None} == {
        "record": "slice", "stream": "slices", "interval": None, "read": len({r["parent"] for r in made}) + 1,
        "created": 0, "written": 1, "filtered": len({r["parent"] for r in made}), "prescaled": 0,
        "quarantined": 0,
    }  # fmt: skip
    run("direct", False)
    for stream in streams:
        whole = desk.folder / f"whole-{stream}.root"
        desk.run("merge", f"first-{stream}.root", f"again-{stream}.root", "-o", whole, "--interleave")
        with (
            CollectionReader([whole]) as one,
            CollectionReader([desk.folder / f"direct-{stream}.root"]) as other,
        ):
            assert same_batches(next(one.batches()), next(other.batches()))


def test_records_that_are_not_made_any_more_are_counted(desk: Desk) -> None:
    toy.write_raw(desk.folder / "raw.json", "A", 7, {"slice": toy.grid(range(1, 6), 20)})
    (desk.folder / "steering.py").write_text(BURSTS.format(fails=False))
    row = {"key": "A:7:2:399", "record": "burst", "parent": "A:7:2:3"}
    (desk.folder / "bad.jsonl").write_text(json.dumps(row) + "\n")
    fixed = ("process", "steering.py", "-i", "raw.json", "--series", "A", "--run", 7, "-o", "burst=b.root")
    told = desk.run(*fixed, "--quarantine-only", "bad.jsonl").stderr
    assert "1 of the 1 burst records named are not made any more" in told
    del row["parent"]
    (desk.folder / "bad.jsonl").write_text(json.dumps(row) + "\n")
    told = desk.run(*fixed, "--quarantine-only", "bad.jsonl", code=4).stderr
    assert "names a burst record without its parent" in told


def test_a_quarantine_that_names_something_else_is_refused(desk: Desk) -> None:
    desk.steer("nothing")
    (desk.folder / "bad.jsonl").write_text('{"key": "A:7:2:3", "record": "burst"}\n')
    assert "names a burst record" in desk.process("--quarantine-only", "bad.jsonl", code=4)
    (desk.folder / "bad.jsonl").write_text('{"kye": 1}\n')
    assert "line 1 names no quarantined record" in desk.process("--quarantine-only", "bad.jsonl", code=4)
    (desk.folder / "bad.jsonl").write_text('{"key": "A:8:2:3", "record": "event"}\n')
    assert "there is no record A:8:2:3" in desk.process("--quarantine-only", "bad.jsonl", code=2)


def test_modules_of_a_steering_file_show_defaults_and_values(desk: Desk) -> None:
    desk.steer("loop")
    shown = json.loads(desk.run("module", "show", "Risky", "--steering", "steering.py", "--json").stdout)
    assert shown["parameters"] == [
        {"name": "how", "default": "loop", "value": "loop", "unit": "", "doc": "what happens"},
        {"name": "slow", "default": 0.0, "value": 0.0, "unit": "s", "doc": "time for each batch"},
    ]
    text = (desk.folder / "steering.py").read_text().replace("Risky())", "Risky(slow=0.5))")
    (desk.folder / "steering.py").write_text(text)
    lines = desk.run("module", "show", "Risky", "--steering", "steering.py").stdout.splitlines()
    header = next(text.split() for text in lines if text.split()[:2] == ["name", "default"])
    assert header[:4] == ["name", "default", "value", "unit"]
    assert any(text.split()[:4] == ["slow", "0", "0.5", "s"] for text in lines)
    assert "slow=0.5 s" in desk.run("module", "ls", "--steering", "steering.py").stdout


@pytest.mark.parametrize(
    ("done", "of", "seconds", "bar", "text"),
    [
        (50, 200, 2.0, False, "50 of 200 records, 25 records/s, 6.0 s left"),
        (50, 200, 2.0, True, "[██████                  ] 50 of 200 records, 25 records/s, 6.0 s left"),
        (2_500_000, 2_500_000, 2.0, False, "2,500,000 of 2,500,000 records, 1.25M records/s, took 2.0 s"),
        (10, 100_000, 1.0, False, "10 of 100,000 records, 10 records/s, 2:46:39 h left"),
        (1000, None, 2.0, True, "1,000 records, 500 records/s"),
        (0, 100, 1.0, False, "0 of 100 records, 0 records/s"),
    ],
)
def test_progress_tells_rate_and_time_left(
    done: int, of: int | None, seconds: float, bar: bool, text: str
) -> None:
    assert line(done, of, seconds, bar) == text


def test_no_option_of_debugging_changes_an_output(desk: Desk) -> None:
    desk.steer("nothing")
    contents = set()
    for number, options in enumerate(
        (["--in-process"], ["--workers", 2], ["--batch-events", 7], ["--profile", "--memory", 500])
    ):
        desk.process("-o", f"dst={number}.root", *options)
        contents.add((desk.folder / f"{number}.root").read_bytes())
    assert len(contents) == 1
