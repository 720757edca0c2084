"""The pages, and what they ask for while they are open."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qs

from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent
from fastapi.staticfiles import StaticFiles
from starlette.types import ASGIApp

from coordinator.dashboard.access import SESSION_S, Access
from coordinator.dashboard.guard import Guard
from coordinator.dashboard.log import Filter
from coordinator.dashboard.metrics import Metrics
from coordinator.dashboard.runs import LiveRun
from coordinator.dashboard.watch import Watch
from ppfl.report.templates import render

_FORM_BYTES = 4096
_REPORT_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'; sandbox"
)
_router = APIRouter()


def create_app(
    watch: Watch, access: Access, *, hosts: frozenset[str] = frozenset(), secure: bool = False
) -> ASGIApp:
    """The dashboard over some runs.

    Args:
        watch: over what it shows.
        access: who may see it.
        hosts: names under which it may be asked for, empty for any.
        secure: whether it is served over TLS, so that the session never goes out in the clear.
    """
    here = _Here(access, watch, Metrics(watch.runs), secure)

    @asynccontextmanager
    async def watching(_: FastAPI) -> AsyncIterator[None]:
        async with watch.running():
            yield

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=watching)
    app.state.here = here
    app.mount("/assets", StaticFiles(directory=Path(__file__).parent / "assets"))
    app.include_router(_router)
    return Guard(app, access=access, hosts=hosts)


@dataclass(frozen=True, slots=True)
class _Here:
    access: Access
    watch: Watch
    metrics: Metrics
    secure: bool


def _here(request: Request) -> _Here:
    here: _Here = request.app.state.here
    return here


_This = Annotated[_Here, Depends(_here)]


def _find(name: str, here: _This) -> LiveRun:
    run = here.watch.runs.get(name)
    if run is None:
        raise HTTPException(404, "There is no such run.")
    return run


_Run = Annotated[LiveRun, Depends(_find)]


@_router.get("/login")
def _show_login() -> HTMLResponse:
    return _page("login.html.j2", wrong=False)


@_router.post("/login")
async def _log_in(request: Request, here: _This) -> Response:
    if not here.access.is_token(await _read_token(request)):
        return _page("login.html.j2", status=403, wrong=True)
    answer = RedirectResponse("/", 303)
    answer.set_cookie(
        here.access.cookie,
        here.access.grant(),
        max_age=SESSION_S,
        httponly=True,
        samesite="strict",
        secure=here.secure,
    )
    return answer


@_router.post("/logout")
def _log_out(here: _This) -> Response:
    answer = RedirectResponse("/login", 303)
    answer.delete_cookie(here.access.cookie)
    return answer


@_router.get("/")
def _show_studies(request: Request, here: _This) -> Response:
    runs = here.watch.runs
    if runs.single:
        return RedirectResponse(request.url_for("_show_run", name=next(iter(runs)).name).path)
    return _page("studies.html.j2")


@_router.get("/runs/{name:path}")
def _show_run(run: _Run, here: _This) -> HTMLResponse:
    return _page("run.html.j2", name=run.name, single=here.watch.runs.single)


@_router.get("/log/{name:path}")
def _show_log(
    run: _Run,
    chosen: Annotated[Filter, Depends()],
    before: Annotated[int, Query(ge=0)] = 0,
    after: Annotated[int, Query(ge=0)] = 0,
) -> dict[str, Any]:
    return run.log(chosen, before=before, after=after)


@_router.get("/metrics")
def _show_metrics(here: _This, accept: Annotated[str, Header()] = "") -> Response:
    page, kind = here.metrics.to_page(accept)
    return Response(page, headers={"content-type": kind})


@_router.get("/report/{name:path}")
def _show_report(run: _Run) -> HTMLResponse:
    try:
        text = run.report.read_text(encoding="utf-8")
    except OSError:
        raise HTTPException(404, "The report is written when the run has ended.") from None
    return HTMLResponse(text, headers={"content-security-policy": _REPORT_POLICY})


@_router.get("/events/{name:path}", response_class=EventSourceResponse)
async def _follow_run(
    run: _Run, here: _This, last_event_id: Annotated[str, Header()] = ""
) -> AsyncIterator[ServerSentEvent]:
    seen = last_event_id
    async for _ in here.watch.looks():
        if (change := run.increment(seen)) is not None:
            text, seen = change
            yield ServerSentEvent(raw_data=text, id=seen)


@_router.get("/events", response_class=EventSourceResponse)
async def _follow_studies(here: _This) -> AsyncIterator[ServerSentEvent]:
    before: list[dict[str, Any]] | None = None
    async for _ in here.watch.looks():
        rows = [run.to_overview() for run in here.watch.runs]
        if rows != before:
            before = rows
            yield ServerSentEvent(data=rows)


def _page(template: str, *, status: int = 200, **values: Any) -> HTMLResponse:
    return HTMLResponse(render(f"templates/{template}", package=__package__, **values), status)


async def _read_token(request: Request) -> str:
    """What a form says in its field ``token``, empty if there is none."""
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > _FORM_BYTES:
            raise HTTPException(413, "The form is too large.")
    return parse_qs(body.decode("utf-8", "replace")).get("token", [""])[0].strip()
