"""The console as an application: every page has a ``.json`` twin, and nothing is shown without the token."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse

from beamwright.core.errors import BeamwrightError
from beamwright.db import views
from beamwright.production import live
from beamwright.production.explain import explain
from beamwright.production.workspace import Workspace
from beamwright.report import document, html
from beamwright.report.grid import grid
from beamwright.server import auth, catalogue, conditions

Row = dict[str, Any]
OPEN_PATHS = frozenset({"/login"})
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def create_app(workspace: Workspace) -> FastAPI:
    """Return the console of a workspace."""
    app = FastAPI(title="beamwright", docs_url=None, redoc_url=None, openapi_url=None)

    @app.middleware("http")
    async def guard(request: Request, go_on: Callable[[Request], Awaitable[Response]]) -> Response:
        response = await go_on(request) if _may_pass(workspace, request) else _denied()
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    @app.exception_handler(BeamwrightError)
    async def explained(request: Request, error: Exception) -> Response:
        assert isinstance(error, BeamwrightError)
        return JSONResponse(error.document(), status_code=error.http_status)

    _add_pages(app, workspace)
    catalogue.add_pages(app, workspace)
    conditions.add_pages(app, workspace)
    return app


def _add_pages(app: FastAPI, workspace: Workspace) -> None:
    @app.get("/login")
    def login(token: str = "") -> Response:
        """Turn a token in a link into a cookie, and leave it out of the address."""
        if not auth.is_allowed(workspace.secret, None, token):
            return _denied()
        response = RedirectResponse("/", status_code=303)
        response.set_cookie(auth.COOKIE, token, httponly=True, samesite="strict")
        return response

    @app.get("/")
    def home() -> HTMLResponse:
        """The newest production: its run × step grid first."""
        return HTMLResponse(html.page(_document(workspace, None)))

    @app.get("/index.json")
    def home_twin() -> JSONResponse:
        with workspace.db.read() as conn:
            found = [{"production": p["name"], "grid": grid(conn, p)} for p in views.productions(conn)]
        return JSONResponse({"productions": found})

    @app.get("/production/{name}.json")
    def production_twin(name: str) -> JSONResponse:
        return JSONResponse(_document(workspace, name))

    @app.get("/production/{name}")
    def production(name: str) -> HTMLResponse:
        return HTMLResponse(html.page(_document(workspace, name)))

    @app.get("/live/{name}.json")
    def under_way(name: str) -> JSONResponse:
        """Return the histograms of runs whose jobs run now."""
        with workspace.db.read() as conn:
            found = views.find_production(conn, name)["name"]
        return JSONResponse({"production": found, "runs": live.plain(live.shown(workspace, found))})

    @app.get("/explain/{thing:path}")
    def explanation(thing: str) -> JSONResponse:
        with workspace.db.read() as conn:
            return JSONResponse(explain(conn, thing, workspace).document())


def _may_pass(workspace: Workspace, request: Request) -> bool:
    if request.url.path in OPEN_PATHS:
        return True
    header, cookie = request.headers.get("authorization"), request.cookies.get(auth.COOKIE)
    is_conditions = request.url.path.startswith(conditions.ROOT)
    purposes = (auth.CONSOLE, auth.CONDITIONS) if is_conditions else (auth.CONSOLE,)
    return auth.is_allowed(workspace.secret, header, cookie, purposes)


def _denied() -> Response:
    problem = {
        "error": "unauthenticated",
        "message": "this page needs the token of the workspace",
        "data": {},
    }
    hint = "send it as `Authorization: Bearer TOKEN`, or open /login?token=TOKEN"
    return JSONResponse(problem | {"hint": hint}, status_code=401, headers={"WWW-Authenticate": "Bearer"})


def _document(workspace: Workspace, name: str | None) -> Row:
    with workspace.db.read() as conn:
        told: Row = {"goals": workspace.settings.goals, "now": workspace.clock.now()}
        return document.build(conn, views.find_production(conn, name), **told)
