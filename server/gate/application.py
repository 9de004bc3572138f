"""The gate over HTTP: answers, the model's card, health, metrics, and an OpenAPI of it all.

Errors have one shape, {"stage": ..., "reason": ...}: the stage of the chain, and what to do. Keys
go in `Authorization: Bearer`, never in a path or a query, where logs of others would keep them.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from tacit.server.gate.base import Denial, Records
from tacit.server.gate.card import Card
from tacit.server.gate.chain import Answer, Chain, Question
from tacit.server.gate.journal import CANNOT, OTHERS_EVERY
from tacit.server.gate.metrics import MEDIA_TYPE
from tacit.server.gate.reveal import Detail
from tacit.server.gate.roles import Act
from tacit.server.gate.validate import Form
from tacit.server.gate.wire import JSON, KEY, Plain, as_json, body_of, caller, headers_of, refusals


class Answers(BaseModel):
    """Of each input the class, and what else this key is told."""

    labels: list[int] = Field(description="the class that comes first")
    detail: Detail
    bands: list[int] | None = Field(None, description="0 to 3: below 0.5, 0.8, 0.95, or above")
    scores: list[list[float]] | None = Field(None, description="(n, classes)")


class About(BaseModel):
    """The model's card, and what this key may have."""

    name: str
    digest: str = Field(description="SHA-256 of the model's file")
    shape: list[int] = Field(description="of one input")
    classes: int
    low: float = Field(description="smallest number of an input")
    high: float = Field(description="largest number of an input")
    most: int = Field(description="inputs to a request")
    details: list[Detail] = Field(description="what may be asked for, least first")
    state: str
    left: int = Field(description="answers that are left to this key")


class Health(BaseModel):
    """`ok`, or the gate answers nothing."""

    status: str


def application(
    chain: Chain, records: Records, close: Callable[[], None], routers: Sequence[APIRouter] = ()
) -> FastAPI:
    """The gate as an ASGI application, `routers` of the operators' besides. At its end the chain is
    closed, and then `close` is called."""

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        noting = asyncio.create_task(_note_now_and_then(chain))
        try:
            yield
        finally:
            noting.cancel()
            try:
                await chain.close()
            finally:
                close()

    app = FastAPI(
        title="Tacit gate", version="1", lifespan=life, docs_url=None, redoc_url=None,
        description="Answers of one model, each by way of one chain, counted and logged.",
        redirect_slashes=False,  # to where the caller's Host says, with his key
    )  # fmt: skip
    app.include_router(_public(chain, records))
    for router in routers:
        app.include_router(router)
    _tell_errors_alike(app)
    return app


def _public(chain: Chain, records: Records) -> APIRouter:
    router = APIRouter(route_class=Plain)

    @router.post(
        "/v1/answers", response_model=Answers, openapi_extra=_asked(chain.card), dependencies=KEY,
        responses=refusals(401, 403, 408, 413, 415, 422, 429, 503),
    )  # fmt: skip
    async def answers(request: Request) -> Response:
        """What the model makes of some inputs, as far as this key may know."""
        question = _question(request, chain.card)
        return as_json(_told(await chain.answer(question)))

    @router.get("/v1/model", response_model=About, responses=refusals(401, 403, 503),
                dependencies=KEY)  # fmt: skip
    async def model(request: Request) -> Response:
        """What is served, and what this key may have of it."""
        grant = chain.admit(*caller(request), Act.ASK)
        told = {
            "details": chain.revealed_to(grant), "state": grant.state, "left": records.left(grant)
        }  # fmt: skip
        return as_json(chain.card.fields() | told)

    @router.get("/health", response_model=Health, responses=refusals(503))
    async def health(_: Request) -> Response:
        """Whether anything is answered, for whoever restarts what does not."""
        if not chain.is_sound:
            raise Denial("log", 503, CANNOT)
        return as_json({"status": "ok"})

    @router.get("/metrics", responses=refusals(401, 403), dependencies=KEY,
                response_class=Response)  # fmt: skip
    async def metrics(request: Request) -> Response:
        """For Prometheus, with a viewer's key."""
        chain.admit(*caller(request), Act.SEE_METRICS)
        return Response(chain.metrics.text(is_sound=chain.is_sound), media_type=MEDIA_TYPE)

    return router


def _question(request: Request, card: Card) -> Question:
    headers = headers_of(request)
    return Question(
        *caller(request, headers),
        detail=request.query_params.get("detail") if request.scope["query_string"] else None,
        form=headers.get(b"content-type", JSON.encode()).decode("latin-1"),
        content=lambda: body_of(request, headers.get(b"content-length", b""), card.body_bytes),
    )


def _told(answer: Answer) -> dict[str, Any]:
    shown = answer.shown
    told: dict[str, Any] = {"labels": shown.labels.tolist(), "detail": answer.detail}
    if shown.bands is not None:
        told["bands"] = shown.bands.tolist()
    if shown.scores is not None:
        told["scores"] = shown.scores.tolist()
    return told


async def _note_now_and_then(chain: Chain) -> None:
    while chain.is_sound:
        await asyncio.sleep(OTHERS_EVERY)
        try:
            await asyncio.to_thread(chain.note)
        except Denial:  # the chain says so to everybody from now on
            return


def _tell_errors_alike(app: FastAPI) -> None:
    def refused(stage: str, reason: str, status: int, headers: dict[str, str]) -> Response:
        return as_json({"stage": stage, "reason": reason}, status, headers)

    async def denied(_: Request, denial: Any) -> Response:
        headers = {}
        if denial.retry_after is not None:
            headers["Retry-After"] = str(max(1, round(denial.retry_after)))
        if denial.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return refused(denial.stage, denial.reason, denial.status, headers)

    async def unrouted(_: Request, error: Any) -> Response:
        return refused("http", error.detail, error.status_code, dict(error.headers or {}))

    async def invalid(_: Request, error: Any) -> Response:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        return refused("validate", f"{where}: {first['msg']}", 422, {})

    async def failed(_: Request, __: Exception) -> Response:
        return refused("gate", "the gate failed: nothing was answered", 500, {})

    handlers: list[tuple[Any, Callable[..., Any]]] = [
        (Denial, denied), (HTTPException, unrouted), (RequestValidationError, invalid),
        (Exception, failed),
    ]  # fmt: skip
    for kind, handler in handlers:
        app.add_exception_handler(kind, handler)


def _asked(card: Card) -> dict[str, Any]:
    """What OpenAPI says of a request for answers: the card's schema."""
    schema: dict[str, Any] = {"type": "number", "minimum": card.low, "maximum": card.high}
    for size in reversed(card.shape):
        schema = {"type": "array", "items": schema, "minItems": size, "maxItems": size}
    inputs = {"type": "array", "items": schema, "minItems": 1, "maxItems": card.most}
    said = {
        "type": "object", "properties": {"inputs": inputs}, "required": ["inputs"],
        "additionalProperties": False,
    }  # fmt: skip
    content = {
        Form.JSON: {"schema": said}, Form.BINARY: {"schema": {"type": "string", "format": "binary"}}
    }  # fmt: skip
    detail = {
        "name": "detail", "in": "query", "required": False,
        "schema": {"type": "string", "enum": list(Detail)},
    }  # fmt: skip
    body = {"required": True, "content": content}
    return {"requestBody": body, "parameters": [detail]}
