"""The dashboard over HTTP: a page, server-sent events behind it, and metrics. It only ever reads.

GET / and its files hold nothing. GET /v1/live?run=NAME tells what is new, GET /metrics what is, for
Prometheus. On the loopback everybody on the machine may look, and no `Host` but the loopback's
names is answered: else a site that a browser here has open could make its own name mean this
address, and read (DNS rebinding). Where others reach the dashboard, `who` says whose a token is,
and what is told takes `Authorization: Bearer`; a token is never in an address or a cookie.
"""

import asyncio
from collections.abc import Callable
from typing import TypeAlias

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from tacit.server.dashboard.live import Live
from tacit.server.gate.page.files import DATA_HEADERS, PACKAGE, file_route

MOST_VIEWERS = 512
MOST_TOKEN = 512  # characters
LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})
_OWN = "tacit.server.dashboard.page"
_FILES = {
    "/": (_OWN, "page.html", "text/html"),
    "/page/page.css": (_OWN, "page.css", "text/css"),
    "/page/page.js": (_OWN, "page.js", "text/javascript"),
    "/page/parts.js": (_OWN, "parts.js", "text/javascript"),
    "/page/chart.js": (_OWN, "chart.js", "text/javascript"),
    "/page/stream.js": (_OWN, "stream.js", "text/javascript"),
    "/page/gate.css": (PACKAGE, "page.css", "text/css"),
    "/page/base.js": (PACKAGE, "base.js", "text/javascript"),
}
_STREAM = DATA_HEADERS | {"X-Accel-Buffering": "no"}  # a proxy that waits for more tells nothing
_TAKES_A_KEY = ("/v1/", "/metrics")

Who: TypeAlias = Callable[[str], str | None]  # whose a token is, None if nobody's


def application(live: Live, who: Who | None = None, hosts: frozenset[str] = LOOPBACK) -> ASGIApp:
    """As an ASGI application. Without `who` all are told, who ask one of `hosts`, lower case."""
    app = FastAPI(title="Tacit dashboard", docs_url=None, redoc_url=None, openapi_url=None,
                  redirect_slashes=False)  # fmt: skip
    for path, (package, name, kind) in _FILES.items():
        app.add_api_route(path, file_route(package, name, kind))

    @app.get("/v1/live")
    async def events(request: Request, run: str = "") -> Response:
        if live.viewers >= MOST_VIEWERS:
            return _refused(503, f"{MOST_VIEWERS} pages are open: close one")
        last = request.headers.get("last-event-id", "")
        token = _token(request.headers.get("authorization", ""))
        told = live.events(run, last, lambda: who is None or who(token) is not None)
        return StreamingResponse(told, headers=_STREAM, media_type="text/event-stream")

    @app.get("/metrics")
    async def metrics() -> Response:
        try:
            from tacit.server.dashboard.metrics import MEDIA_TYPE, text
        except ModuleNotFoundError:
            return _refused(501, "metrics take prometheus-client: pip install prometheus-client")
        async with live.looked() as house:
            content = text(house, live.viewers)
        return Response(content, headers=DATA_HEADERS, media_type=MEDIA_TYPE)

    @app.get("/health")
    async def health() -> Response:
        return JSONResponse({"status": "ok"}, headers=DATA_HEADERS)

    return _Door(app, who, hosts)


class _Door:
    """Who may come in."""

    def __init__(self, app: ASGIApp, who: Who | None, hosts: frozenset[str]) -> None:
        self._app, self._who, self._hosts = app, who, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = await self._refusal(scope) if scope["type"] == "http" else None
        await (refusal or self._app)(scope, receive, send)

    async def _refusal(self, scope: Scope) -> Response | None:
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        if self._who is None:
            if _name(headers.get(b"host", "")) in self._hosts:
                return None
            return _refused(421, "this is the loopback's dashboard: open http://localhost")
        if not scope["path"].startswith(_TAKES_A_KEY):
            return None
        token = _token(headers.get(b"authorization", ""))
        if token and await asyncio.to_thread(self._who, token) is not None:
            return None
        said = "no good token: tacit server grant NAME --role viewer makes one"
        return _refused(401, said, {"WWW-Authenticate": "Bearer"})


def _name(host: str) -> str:
    """The name in a `Host`, without its port."""
    name, _, port = host.rpartition(":")
    return (name if name and port.isdigit() else host).lower()


def _token(authorization: str) -> str:
    scheme, _, token = authorization.partition(" ")
    return token.strip() if scheme.lower() == "bearer" and len(token) <= MOST_TOKEN else ""


def _refused(status: int, reason: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"reason": reason}, status, DATA_HEADERS | (headers or {}))
