"""The operators' page and what it calls: GET /operator, and JSON under /v1/operator/.

The page's files are public, and hold nothing; all that it shows comes by a key. The key is typed
into the page, kept in its memory and sent as `Authorization: Bearer`: there is no cookie, and so
nothing that another site could make a browser send (CSRF). Acts go through `desk` and `approvals`,
as those of the command line do, so roles are checked and the log is told there.

Wrong keys are counted, logged and not slowed down: 256 random bits are not guessed, and who counts
failures by address lets whoever shares one with an operator lock him out.
"""

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import ValidationError

from tacit.crypto.errors import ParameterError
from tacit.server.gate import approvals, desk
from tacit.server.gate.base import Denial, Grant
from tacit.server.gate.chain import Chain
from tacit.server.gate.desk import LABELS_ALONE, Wanted
from tacit.server.gate.keys import DRAW_BYTES, Key
from tacit.server.gate.page import forms
from tacit.server.gate.page.files import DATA_HEADERS, PACKAGE, file_route
from tacit.server.gate.page.forms import Done, Form, Handed
from tacit.server.gate.page.overview import House, overview
from tacit.server.gate.roles import TAKES_TWO, Act
from tacit.server.gate.wire import KEY, Plain, as_json, body_of, caller, headers_of, refusals

MOST_BYTES = 16384  # in a request of the page
_DAY, _HOUR = 86400.0, 3600.0
_FILES = {
    "/operator": ("page.html", "text/html"),
    "/operator/page.css": ("page.css", "text/css"),
    "/operator/page.js": ("page.js", "text/javascript"),
    "/operator/parts.js": ("parts.js", "text/javascript"),
    "/operator/acts.js": ("acts.js", "text/javascript"),
    "/operator/base.js": ("base.js", "text/javascript"),
}

_SAID: dict[str, Any] = {
    "dependencies": KEY,
    "responses": refusals(401, 403, 408, 413, 422, 429, 503),
}


def operators(chain: Chain, house: House, clock: Callable[[], float] = time.time) -> APIRouter:
    """For `application`."""
    router = APIRouter(route_class=Plain)
    for path, (name, kind) in _FILES.items():
        router.add_api_route(path, file_route(PACKAGE, name, kind), include_in_schema=False)
    _add_view(router, chain, house, clock)
    for name, form, do, acts in _ACTS:
        _add_act(router, chain, house, clock, (name, form, do, acts))
    return router


def _add_view(router: APIRouter, chain: Chain, house: House, clock: Callable[[], float]) -> None:
    alone = asyncio.Semaphore(1)  # one look at all keys at a time: who asks the model waits for it

    @router.get("/v1/operator/view", response_model=dict[str, Any], **_SAID)
    async def view(request: Request) -> Response:
        """All that this key may see, at one moment."""
        async with alone:
            with chain.admitted(*caller(request), Act.SEE_STATES, *_TWO) as by, _refusing():
                told = await asyncio.to_thread(overview, house, by, clock())
        return as_json(told, headers=DATA_HEADERS)


def _add_act(
    router: APIRouter, chain: Chain, house: House, clock: Callable[[], float], it: "_Does"
) -> None:
    name, form, do, acts = it

    async def act(request: Request) -> Response:
        with chain.admitted(*caller(request), *acts), _refusing():
            wanted = form.model_validate_json(await _body(request))
        # Again: a body may take seconds, and the key be revoked meanwhile.
        with chain.admitted(*caller(request), *acts) as by, _refusing():
            told = await asyncio.to_thread(do, house, by, wanted, clock())
        return as_json(told.model_dump(), headers=DATA_HEADERS)

    content = {"application/json": {"schema": form.model_json_schema()}}
    router.post(
        f"/v1/operator/{name}", name=name, description=form.__doc__,
        response_model=do.__annotations__["return"],
        openapi_extra={"requestBody": {"required": True, "content": content}}, **_SAID,
    )(act)  # fmt: skip


async def _body(request: Request) -> bytes:
    return await body_of(request, headers_of(request).get(b"content-length", b""), MOST_BYTES)


@contextmanager
def _refusing() -> Iterator[None]:
    """What cannot be done as it was asked for is told to who asked, and counted like a denial."""
    try:
        yield
    except ValidationError as bad:
        first = bad.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "body"
        raise Denial("validate", 422, f"{where}: {first['msg']}") from None
    except ParameterError as bad:
        raise Denial("validate", 422, str(bad)) from None


def _issue(house: House, by: Grant, wanted: forms.Issue, at: float) -> Handed:
    of = Wanted(
        wanted.organisation,
        wanted.role,
        at + wanted.days * _DAY,
        LABELS_ALONE | set(wanted.details),
        tuple(wanted.networks),
    )
    return _handed(desk.issue(house.store, by, of, os.urandom(DRAW_BYTES), at))


def _rotate(house: House, by: Grant, wanted: forms.Rotate, at: float) -> Handed:
    overlap, rand = wanted.hours * _HOUR, os.urandom(DRAW_BYTES)
    return _handed(desk.rotate(house.store, by, wanted.key, overlap, rand, at))


def _revoke(house: House, by: Grant, wanted: forms.Revoke, at: float) -> Done:
    desk.revoke(house.store, by, wanted.key, at)
    return Done(done=wanted.key)


def _suspend(house: House, by: Grant, wanted: forms.Suspend, at: float) -> Done:
    desk.suspend(house.store, by, wanted.key, wanted.reason, at)
    return Done(done=wanted.key)


def _restore(house: House, by: Grant, wanted: forms.Restore, at: float) -> Done:
    desk.restore(house.store, by, wanted.key, wanted.reason, at, wanted.days * _DAY)
    return Done(done=wanted.key)


def _ask(house: House, by: Grant, wanted: forms.Ask, at: float) -> Done:
    asked = approvals.ask(house.store, by, wanted.deed, wanted.subject, at, wanted.amount)
    return Done(done=str(asked.number))


def _approve(house: House, by: Grant, wanted: forms.Approve, at: float) -> Done:
    approvals.approve(house.codes(), by, wanted.request, wanted.code, at)
    return Done(done=str(wanted.request))


def _handed(key: Key) -> Handed:
    return Handed(key=key.name, secret=key.text)


_Does: TypeAlias = tuple[
    str, type[Form], Callable[[House, Grant, Any, float], Any], tuple[Act, ...]
]

_ISSUES, _JUDGES = (Act.ISSUE, Act.APPOINT), (Act.JUDGE, Act.APPOINT)
_TWO = tuple(sorted(TAKES_TWO))
# Acts by name; who does one needs the right to one of what stands there, and `desk` looks closer.
_ACTS: tuple[_Does, ...] = (
    ("issue", forms.Issue, _issue, _ISSUES),
    ("rotate", forms.Rotate, _rotate, _ISSUES),
    ("revoke", forms.Revoke, _revoke, _ISSUES),
    ("suspend", forms.Suspend, _suspend, _JUDGES),
    ("restore", forms.Restore, _restore, _JUDGES),
    ("ask", forms.Ask, _ask, _TWO),
    ("approve", forms.Approve, _approve, _TWO),
)
