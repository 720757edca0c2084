"""What stands before every page: the log-in, and headers by which a browser keeps others out."""

from __future__ import annotations

from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from coordinator.dashboard.access import Access

_OPEN = ("/login", "/assets/")  # nothing of a study is there
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "cache-control": "no-store",
}


class Guard:
    """Lets in only those with a session or the token, and adds headers to every answer.

    Args:
        app: the pages.
        access: knows the sessions.
        hosts: names under which the pages may be asked for, empty for any: another site's name
            that leads to this machine (DNS rebinding) gets nothing.
    """

    def __init__(self, app: ASGIApp, *, access: Access, hosts: frozenset[str]) -> None:
        self._app, self._access, self._hosts = app, access, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or hand it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        refusal = self._refuse(HTTPConnection(scope))
        await (refusal or self._app)(scope, receive, send_guarded)

    def _refuse(self, request: HTTPConnection) -> Response | None:
        if self._hosts and _host_of(request) not in self._hosts:
            return PlainTextResponse("This host name is not the dashboard's.\n", 400)
        if request.scope["method"] == "POST" and not _is_own(request):
            return PlainTextResponse("This form came from another site.\n", 403)
        # not request.url, which is put together with what the Host header says
        if request.scope["path"].startswith(_OPEN) or self._admits(request):
            return None
        if "text/html" in request.headers.get("accept", ""):
            return RedirectResponse("/login", 303)
        return PlainTextResponse("Log in first.\n", 401, {"www-authenticate": "Bearer"})

    def _admits(self, request: HTTPConnection) -> bool:
        session = request.cookies.get(self._access.cookie, "")
        return self._access.admits(session) or self._access.is_bearer(
            request.headers.get("authorization", "")
        )


def _host_of(request: HTTPConnection) -> str:
    """The name in the Host header, without its port and brackets, as it came."""
    name, colon, port = request.headers.get("host", "").rpartition(":")
    host = name if colon and port.isdecimal() else f"{name}{colon}{port}"
    return host.removeprefix("[").removesuffix("]").lower()


def _is_own(request: HTTPConnection) -> bool:
    """Whether a form came from one of our own pages; a program that is no browser says nothing."""
    return request.headers.get("sec-fetch-site", "same-origin") == "same-origin"
