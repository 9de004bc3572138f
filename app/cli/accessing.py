"""What the commands about roles and releases do, once their arguments are read."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import typer

from tacit.app.authority import new_approver
from tacit.app.cli.log import public_key
from tacit.app.cli.screen import Screen, complain
from tacit.app.deployment import modes, operators, orders
from tacit.app.deployment.executing import Wanted
from tacit.app.deployment.history import refusal
from tacit.app.deployment.operators import Operator, Role
from tacit.app.deployment.places import Places, server_in
from tacit.app.deployment.releasing import released
from tacit.client.files import new_file
from tacit.crypto.errors import ParameterError
from tacit.crypto.order import Act
from tacit.server.gate.keys import DRAW_BYTES, Key, drawn

WAIT, LOOK = 5.0, 0.1  # seconds
FAILED = 1  # exit code


def key(screen: Screen, file: Path) -> None:
    """Make an operator's key."""
    public = new_approver(file).hex()
    screen.say(f"{file} signs your orders: keep it; pass on {file}.pub, for tacit server grant")
    screen.result(key=str(file), public=public)


def grant(
    screen: Screen,
    folder: Path,
    as_file: Path | None,
    name: str,
    role: str,
    key: str | None,
    out: Path | None,
    *,
    needs_audit: bool,
) -> None:
    """Order a role for somebody."""
    places, wanted_role, token = server_in(folder), _role(role), None
    if wanted_role is Role.VIEWER:
        if key is not None:
            raise ParameterError("a viewer has a token, which is made here: leave out --key")
        if out is None and screen.is_quiet:
            raise ParameterError("--quiet would lose the token: name a file for it with --out")
        token = drawn(os.urandom(DRAW_BYTES))
    elif key is None:
        raise ParameterError(f"the role {role} takes --key, of tacit server key: its FILE.pub")
    public = token.digest if token else _public(key or "")
    operator = Operator(name, wanted_role, public, needs_audit)
    operators.load(places).granted(operator)  # what cannot be is refused at once
    settings = Wanted(wanted_role, public, needs_audit).toml()
    if token is not None:
        _hand(screen, name, token, out)  # before it is good, or one could be good that nobody has
    how = _carried(
        screen,
        places,
        Act.GRANT,
        name,
        as_file,
        settings,
        lambda: operators.load(places).named(name) == operator,
    )
    _tell(screen, how, f"{name} is {wanted_role}", name=name, role=str(wanted_role))


def withdraw(screen: Screen, folder: Path, as_file: Path | None, name: str) -> None:
    """Order the end of a role."""
    places = server_in(folder)
    operators.load(places).withdrawn(name)
    how = _carried(
        screen,
        places,
        Act.WITHDRAW,
        name,
        as_file,
        "",
        lambda: operators.load(places).named(name) is None,
    )
    _tell(screen, how, f"{name} has no role any more", name=name)


def roles(screen: Screen, folder: Path) -> None:
    """All who have or had a role, a line each."""
    register = operators.load(server_in(folder))
    for each in register.known:
        audit = ", audited models alone" if each.needs_audit else ""
        ended = "  withdrawn" if each.is_withdrawn else ""
        screen.say(f"{each.name}  {each.role}{audit}  key {each.key.hex()[:16]}{ended}")
        screen.fact(
            name=each.name,
            role=each.role,
            key=each.key.hex(),
            needs_audit=each.needs_audit,
            withdrawn=each.is_withdrawn,
        )
    screen.result(server=register.server.hex(), roles=len([*register]))


def share(screen: Screen, folder: Path, group: str) -> None:
    """Open what operators of a group need."""
    places = server_in(folder)
    modes.share(places, group)
    screen.say(f"members of {group} can put orders into {places.inbox}")
    screen.result(folder=str(places.folder), group=group)


def release(screen: Screen, folder: Path, key: Path | None, run: str) -> None:
    """Order a release."""
    places = server_in(folder)
    target = released(places, run)
    if target.exists():
        raise ParameterError(f"run {run} is released already: {target}")
    how = _carried(screen, places, Act.RELEASE, run, key, "", target.exists)
    _tell(screen, how, f"released: {target}", run=run, model=str(target))


def _carried(
    screen: Screen,
    places: Places,
    act: Act,
    name: str,
    key: Path | None,
    settings: str,
    is_done: Callable[[], bool],
) -> str:
    """Place an order, and see for a while what becomes of it: done, taken, or waiting. Ends with
    FAILED if it is refused."""
    began = time.time()
    path = orders.place(places, key, act, name, settings)
    end, why = time.monotonic() + WAIT, None
    while not is_done():
        if not path.exists() and (why := refusal(places, f"{act} {name}", began - 1.0)):
            complain(f"the order was refused: {why}")
            screen.result(order="refused", name=name, reason=why)
            raise typer.Exit(FAILED)
        if time.monotonic() > end:
            return "waiting" if path.exists() else "taken"
        time.sleep(LOOK)
    return "done"


def _tell(screen: Screen, how: str, deed: str, **fields: str) -> None:
    said = {
        "done": deed,
        "taken": "the order was taken, and takes its time",
        "waiting": "the order waits for the supervisor, for a day at most: tacit up",
    }
    screen.say(said[how])
    screen.result(order=how, **fields)


def _hand(screen: Screen, name: str, token: Key, out: Path | None) -> None:
    if out is not None:
        new_file(out, token.text.encode() + b"\n")
        screen.say(f"the token of {name} is in {out}, and nowhere else")
    else:
        screen.say(f"the token of {name}, which is not shown again:")
        screen.say(token.text)
        screen.fact(token=token.text)


def _role(text: str) -> Role:
    try:
        return Role(text)
    except ValueError:
        raise ParameterError(f"there is no role {text!r}: {', '.join(Role)}") from None


def _public(text: str) -> bytes:
    path = Path(text)
    return public_key(path.read_text(encoding="ascii") if path.is_file() else text)
