"""What the gate's HTTP is made of: who calls, bodies with a bound, and errors of one shape."""

import json
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Security
from fastapi.responses import Response
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from pydantic import BaseModel

from tacit.server.gate.base import Denial

JSON = "application/json"
KEY = [Security(HTTPBearer(scheme_name="key"))]  # is said in OpenAPI: keys are the chain's


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": Refusal} for status in statuses}


class Refusal(BaseModel):
    """Why a request is not answered: at which stage of the chain, and what to do about it."""

    stage: str
    reason: str


class Plain(APIRoute):
    """A route whose function gets the request, and whose parameters are for OpenAPI alone: what
    FastAPI would do between, for functions that have others, takes as long as the whole chain."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler: Callable[[Request], Coroutine[Any, Any, Response]] = self.endpoint
        return handler


def headers_of(request: Request) -> dict[bytes, bytes]:
    """The last of each name, which ASGI has in lower case: quicker than Starlette's own."""
    return dict(request.scope["headers"])


def caller(request: Request, headers: dict[bytes, bytes] | None = None) -> tuple[str, str]:
    """The key's secret, "" if there is none, and the address that it comes from."""
    found = (headers or headers_of(request)).get(b"authorization", b"").decode("latin-1")
    scheme, _, secret = found.partition(" ")
    client = request.scope.get("client")
    return secret.strip() if scheme.lower() == "bearer" else "", client[0] if client else ""


async def body_of(request: Request, length: bytes, most: int) -> bytes:
    """Raises Denial for a body that is too large, before it is in memory. How long it may take is
    the connection's affair: see `patience.py`."""
    too_large = f"the body has more than {most} bytes: send less"
    if length.isdigit() and int(length[:20]) > most:
        raise Denial("validate", 413, too_large)
    body, is_more = b"", True
    while is_more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise Denial("validate", 408, "the connection ended before the body did")
        body += message.get("body", b"")
        if len(body) > most:
            raise Denial("validate", 413, too_large)
        is_more = message.get("more_body", False)
    return body


def as_json(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(json.dumps(content), status, headers, JSON)
