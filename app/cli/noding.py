"""What `tacit device run` and `tacit device allow` do, once their arguments are read."""

import gc
import importlib
import logging
import os
import signal
import sys
import tomllib
from pathlib import Path
from ssl import SSLError
from types import FrameType
from typing import NoReturn

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.clientapp import ClientApp

from tacit.app.cli.screen import Screen
from tacit.app.deployment import bundle
from tacit.client.device import is_enrolled
from tacit.client.enrolment import ADDRESS, CA, NODE_KEY
from tacit.client.files import read_private
from tacit.client.node import bundles, settings
from tacit.client.node.allowed import OwnersRules
from tacit.client.node.base import NODE_LOCK
from tacit.client.node.diary import NodeDiary
from tacit.client.node.flower import Config, Link
from tacit.client.node.node import Node
from tacit.client.node.pace import Allowance, BackOff, Pace
from tacit.client.vault import FileVault, locked
from tacit.crypto.errors import ParameterError

HOME = "flwr"

log = logging.getLogger("tacit.node")


class Stopped(BaseException):
    """Somebody asked the node to end."""


def device_run(
    screen: Screen,
    folder: Path,
    config: list[str],
    idle: float | None,
    rate: float | None,
    linger: float,
    preload: list[str],
) -> None:
    """Be a device's node until somebody ends it."""
    vault = FileVault.open(folder.resolve())
    address, link = _link(vault)
    asked = settings.load(vault.folder).connection
    os.environ.setdefault("FLWR_HOME", str(vault.folder / HOME))  # for bundles with code in them
    own = bundle.digest(bundle.build())
    node = Node(
        link,
        address,
        {**_config(config), "vault": str(vault.folder)},
        lambda each: _may_run(vault, each, own),
        {own: _app},
        OwnersRules(vault),
        NodeDiary(vault),
        pace=Pace(asked.idle if idle is None else idle),
        allowance=Allowance(asked.bandwidth if rate is None else rate * 1000),
        retry=BackOff(asked.first, asked.longest),
        linger=linger,
    )
    for module in preload:
        importlib.import_module(module)
    _app()
    try:
        with locked(vault.folder / NODE_LOCK, wait=False):
            _speak(screen)
            vault.tidy()
            _serve(node)
    except BlockingIOError:
        raise ParameterError(f"a node with {folder} is running already") from None


def device_allow(screen: Screen, folder: Path, wanted: list[str], remove: bool) -> None:
    """Change which bundles a device runs, and say which those are."""
    vault, own = FileVault.open(folder), bundle.digest(bundle.build())
    named = [_hash(each) for each in wanted]
    allowed = (
        bundles.change(vault, own, **({"remove": named} if remove else {"add": named}))
        if named
        else bundles.load(vault)
    )
    for each in allowed.all(own):
        screen.say(f"{each}{'  (the installed Tacit)' if each == own else ''}")
    if not allowed.all(own):
        screen.say("no bundle is allowed: this device answers nothing")
    screen.result(bundles=allowed.all(own), own=own)


def _may_run(vault: FileVault, wanted: str, own: str) -> bool:
    """Whether the owner allows a bundle; not if nobody can tell."""
    try:
        return bundles.load(vault).allow(wanted, own)
    except ParameterError as bad:
        log.error("no bundle is run: %s", bad)
        return False


def _app() -> ClientApp:
    """What this version's bundle names."""
    from tacit.app.client import app

    return app


def _serve(node: Node) -> None:
    """Until a signal ends it."""

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        raise Stopped

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    gc.collect()
    gc.freeze()  # what is loaded stays where it is: processes forked from here share it for longer
    try:
        node.serve()
    except Stopped:
        node.link.close()


def _link(vault: FileVault) -> tuple[str, Link]:
    """The way to the device's server. Raises ParameterError if it has not joined."""
    if not is_enrolled(vault):
        raise ParameterError(
            f"{vault.folder} has not joined a federation: bring its request to the authority, and "
            "then say tacit device join"
        )
    try:
        address = (vault.folder / ADDRESS).read_text("utf-8").strip()
        ca = (vault.folder / CA).read_bytes()
    except OSError as bad:
        raise ParameterError(
            f"{bad.filename}: {bad.strerror}: join again with the authority's newest answer"
        ) from None
    secret = read_private(vault.folder / NODE_KEY)
    try:
        key = load_ssh_private_key(secret, None)
        if isinstance(key, EllipticCurvePrivateKey):
            return address, Link(address, ca, key)
    except (ValueError, UnsupportedAlgorithm, SSLError):  # whose words may quote the files
        pass
    raise ParameterError(
        f"{vault.folder}: the node's key or the CA's certificate is damaged: join again with the "
        "authority's newest answer"
    )


def _config(pairs: list[str]) -> Config:
    """What the device's owner tells the app, as KEY=VALUE with values in TOML's notation."""
    found: Config = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text
        if not equals or not key.strip() or not isinstance(value, bool | int | float | str):
            raise ParameterError(f"--config {pair}: expected KEY=VALUE, such as partition-id=3")
        found[key.strip()] = value
    return found


def _hash(text: str) -> str:
    """The hash that `text` is, or that of the bundle in the file of this name."""
    path = Path(text)
    return bundle.digest(path.read_bytes()) if path.is_file() else bundles.parse(text)


def _speak(screen: Screen) -> None:
    """Log to standard error, which is what a service manager keeps."""
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.ERROR if screen.is_quiet else logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
        force=True,
    )
    logging.getLogger("httpx").setLevel(logging.WARNING)  # a line for each look for a message
