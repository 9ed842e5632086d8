"""The console shows the grid to those who carry the token, and nothing to anybody else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.sample_production import Sample
from support.serving import Console

pytest.importorskip("fastapi", reason="the extra `server` is not installed")

import httpx
import numpy as np

from beamwright.core.histogram import Axis, HistogramSet
from beamwright.production import live
from beamwright.production.workspace import Workspace
from beamwright.server import auth

PAGES = (
    "/", "/index.json", "/production/sample", "/production/sample.json", "/explain/A/2", "/live/sample.json",
    "/nowhere",
)  # fmt: skip


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    workspace = Workspace.create(tmp_path / "workspace")
    with workspace.db.begin() as conn:
        Sample(conn, folder=workspace.root).build()
    yield workspace
    workspace.db.close()


@pytest.fixture
def console(workspace: Workspace) -> Iterator[Console]:
    yield Console(workspace)


@pytest.mark.parametrize("path", PAGES)
@pytest.mark.parametrize("header", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic eDp5"}])
def test_nothing_is_shown_without_the_token(console: Console, path: str, header: dict[str, str]) -> None:
    answer = console.get(path, headers=header)
    assert answer.status_code == 401
    assert "sample" not in answer.text
    assert answer.headers["www-authenticate"] == "Bearer"


def test_home_is_the_grid_and_has_a_json_twin(console: Console) -> None:
    page = console.get("/", headers=console.bearer)
    assert page.status_code == 200
    assert "Runs and steps" in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    (production,) = console.get("/index.json", headers=console.bearer).json()["productions"]
    assert production["production"] == "sample"
    assert production["grid"]["rows"][0]["cells"]["reco"]["state"] == "ok"


def test_production_and_its_twin_tell_the_same(console: Console) -> None:
    twin = console.get("/production/sample.json", headers=console.bearer).json()
    page = console.get("/production/sample", headers=console.bearer).text
    assert all(collection["name"] in page for collection in twin["collections"])


def test_unknown_names_are_errors_with_status_and_hint(console: Console) -> None:
    answer = console.get("/production/sampel.json", headers=console.bearer)
    assert answer.status_code == 404
    assert "sample" in answer.json()["hint"]
    assert console.get("/nowhere", headers=console.bearer).status_code == 404


def test_explanation_of_a_run(console: Console) -> None:
    told = console.get("/explain/A/2", headers=console.bearer).json()
    assert told["kind"] == "run"


def test_token_in_a_link_becomes_a_cookie(console: Console, workspace: Workspace) -> None:
    token = auth.token(workspace.secret)
    answer = console.get(f"/login?token={token}")
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert "HttpOnly" in answer.headers["set-cookie"]
    assert console.get("/login?token=wrong").status_code == 401
    assert console.get("/", headers={"Cookie": f"{auth.COOKIE}={token}"}).status_code == 200


def test_the_console_shows_histograms_of_runs_under_way(console: Console, workspace: Workspace) -> None:
    filled = HistogramSet()
    filled.book("h", Axis(4, 0.0, 4.0, "x"))
    filled["h"].fill(np.array([0.5, 1.5, 1.5]))
    found = {("reco", "A", 2): live.Live(filled, final=1, partial=1, units=3)}
    live.show(workspace, "sample", found)
    (row,) = console.get("/live/sample.json", headers=console.bearer).json()["runs"]
    assert (row["step"], row["run"], row["final"], row["partial"], row["units"]) == ("reco", 2, 1, 1, 3)
    assert row["histograms"]["h"]["counts"] == [1, 2, 0, 0]
    assert row["histograms"]["h"]["mean"] == pytest.approx(7 / 6)
    live.hide(workspace, "sample")
    assert console.get("/live/sample.json", headers=console.bearer).json()["runs"] == []
    assert console.get("/live/nothing.json", headers=console.bearer).status_code == 404


def test_the_catalogue_is_asked_in_its_language(console: Console) -> None:
    def ask(path: str, **params: object) -> httpx.Response:
        return console.get(path, headers=console.bearer, params=params)

    rows = ask("/catalogue/collections.json", where="stream == 'dst' and run == 2").json()["collections"]
    assert rows and {row["stream"] for row in rows} == {"dst"}
    assert len(ask("/catalogue/files.json", limit=2).json()["files"]) == 2
    assert ask("/catalogue/runs.json", as_of="2001-01-01").json() == {"runs": []}
    assert ask("/catalogue/runs.json", where="run > 1", explain=True).json()["rows"] == 2
    assert "datasets" in ask("/catalogue/datasets.json", where="run == 2").json()
    wrong = ask("/catalogue/files.json", where="sise > 1")
    assert wrong.status_code == 400 and wrong.json()["data"]["column"] == 1
    assert ask("/catalogue/events.json").status_code == 404
    assert console.get("/catalogue/files.json").status_code == 401
    down = ask("/lineage/descendants/A/2").json()
    assert {"run", "file", "chunk", "unit", "collection"} <= {node["kind"] for node in down["nodes"]}
    assert ask("/lineage/sideways/A/2").status_code == 404
