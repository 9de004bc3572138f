"""What `tacit authority`, `tacit device` and `tacit server` do, once their arguments are read."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import typer

from tacit.app import acts, server_folder
from tacit.app import authority as authorities
from tacit.app.authority import Authority, opened
from tacit.app.cli.brought import compare, read_answer, read_request
from tacit.app.cli.log import public_key
from tacit.app.cli.screen import Screen, complain
from tacit.app.config import Settings, load
from tacit.app.deployment import founding, history, modes
from tacit.app.deployment.places import Places
from tacit.app.journal import Journal
from tacit.client import enrolment
from tacit.client.device import is_enrolled
from tacit.client.node.base import NODE_LOCK
from tacit.client.vault import FileVault, is_locked
from tacit.crypto.answers import DeviceAnswer, ServerAnswer
from tacit.crypto.certificate import ends_at
from tacit.crypto.enrolment import Request
from tacit.crypto.errors import Damaged, ParameterError
from tacit.crypto.identity import Identity

FAILED = 1


def authority_init(screen: Screen, folder: Path, approvers: list[str], days: int) -> None:
    """Make an authority."""
    keys = [_public(each) for each in approvers]
    trust = authorities.create(folder, keys, days, _now())
    screen.say(f"{folder}: an authority with its keys; keep it off the network, and back it up")
    screen.say(f"its fingerprint, to be read out to who joins: {trust.fingerprint}")
    if trust.approvers:
        screen.say(f"every act takes one of {len(trust.approvers)} approvers: --approve-by KEYFILE")
    screen.result(
        folder=str(folder), authority=trust.authority.hex(), fingerprint=trust.fingerprint
    )


def authority_approver(screen: Screen, file: Path) -> None:
    """Make a second person's key."""
    public = authorities.new_approver(file).hex()
    screen.say(f"{file} approves of an authority's acts: --approve-by {file}")
    screen.say(f"pass on {file}.pub, for tacit authority init --approver, and keep {file}")
    screen.result(key=str(file), public=public)


def authority_enrol(
    screen: Screen,
    folder: Path,
    paths: list[Path],
    heard: list[str],
    yes: bool,
    approve_by: Path | None,
) -> None:
    """Let in all who ask."""
    requests = [read_request(path) for path in paths]
    with opened(folder) as authority:
        approver = _approver(authority, approve_by)
        for request in requests:
            compare(screen, f"the request of {request.name}", request.fingerprint, heard, yes)
        _done(screen, authority, acts.enrol(authority, requests, _now(), approver))


def authority_revoke(
    screen: Screen, folder: Path, named: str, reason: str, approve_by: Path | None
) -> None:
    """Put somebody out."""
    with opened(folder) as authority:
        approver = _approver(authority, approve_by)
        written = acts.revoke(authority, named, reason, _now(), approver)
        screen.say(f"{named} is out, and a server knows when it has joined with its new answer")
        _done(screen, authority, written)


def authority_rotate(
    screen: Screen,
    folder: Path,
    named: str,
    path: Path,
    heard: list[str],
    yes: bool,
    approve_by: Path | None,
) -> None:
    """Give somebody new keys."""
    request = read_request(path)
    with opened(folder) as authority:
        approver = _approver(authority, approve_by)
        compare(screen, f"the request of {request.name}", request.fingerprint, heard, yes)
        _done(screen, authority, acts.rotate(authority, named, request, _now(), approver))


def authority_renew(
    screen: Screen, folder: Path, ca: str, answers: bool, serial: int, approve_by: Path | None
) -> None:
    """Begin all terms anew."""
    with opened(folder) as authority:
        approver = _approver(authority, approve_by)
        written = acts.renew(authority, _now(), approver, ca=ca, answers=answers, serial=serial)
        _done(screen, authority, written)


def authority_show(screen: Screen, folder: Path) -> None:
    """Who is in."""
    with opened(folder) as authority:
        register = authority.register
    now, trust = _now(), register.trust
    screen.say(f"authority {trust.fingerprint}, key {trust.authority.hex()}")
    for approver in trust.approvers:
        screen.say(f"approver {approver.hex()}")
    screen.say(f"CA's certificate until {_day(ends_at(register.ca))}, roster {register.serial}")
    for each in register.devices:
        over = " (over: tacit authority renew)" if each.until < now else ""
        screen.say(f"device {each.number}  {each.name}  until {_day(each.until)}{over}")
        screen.fact(device=each.number, name=each.name, until=each.until, enrolled=True)
    for server in register.servers:
        ends = ends_at(server.certificate)
        screen.say(f"server {server.name}  {server.address}  until {_day(ends)}")
        screen.fact(server=server.name, address=server.address, until=ends)
    for each in register.retired:
        screen.say(f"device {each.number}  {each.name}  has keys that are no good any more")
        screen.fact(device=each.number, name=each.name, until=each.until, enrolled=False)
    screen.result(
        authority=trust.authority.hex(),
        fingerprint=trust.fingerprint,
        serial=register.serial,
        devices=len(register.devices),
        servers=len(register.servers),
    )


def device_init(
    screen: Screen, vault: Path, name: str, policy: Path | None, assign: list[str], plain: bool
) -> None:
    """Make a device."""
    settings = (load(policy) if policy else Settings()).changed(assign)
    request = enrolment.prepare(vault, name, settings.policy.policy(plain=plain), _now())
    _asked(screen, vault, request)


def device_rotate(screen: Screen, vault: Path) -> None:
    """Make new keys for a device."""
    _asked(screen, vault, enrolment.renew(FileVault.open(vault), _now()))


def device_join(screen: Screen, folder: Path, path: Path, heard: list[str], yes: bool) -> None:
    """Make the device the one of the answer."""
    vault, answer = FileVault.open(folder), read_answer(path)
    if not isinstance(answer, DeviceAnswer):
        raise ParameterError(f"{path} is the answer to a server: tacit server join")
    trust = answer.issue.trust
    if not is_enrolled(vault):
        enrolment.check(vault, answer, _now())
        compare(screen, "the authority", trust.fingerprint, heard, yes)
    joined = enrolment.join(vault, answer, _now())
    number, address = joined.device.number, answer.issue.address
    screen.say(f"{folder}: device {number}, {answer.name}, of authority {trust.fingerprint}")
    if is_locked(vault.folder / NODE_LOCK):  # it read its key when it began
        screen.say("its node runs with what was there before: end it and start it again")
    else:
        screen.say(f"start it: tacit device run {folder} --config partition-id={number - 1}")
    screen.result(
        device=number,
        name=answer.name,
        fingerprint=trust.fingerprint,
        address=address,
        serial=answer.issue.roster.serial,
        new_keys=joined.changed,
    )


def server_init(screen: Screen, folder: Path, name: str, address: str, port: int) -> None:
    """Make a server."""
    hosts = tuple(each.strip() for each in address.split(","))
    request = server_folder.prepare(folder, name, hosts, port, _now())
    places, journal = Places(folder), Journal(folder)
    founding.found(places, journal)
    journal.close()
    screen.say(f"{places.keys / 'authority.key'} grants roles on this server: move it to whom it")
    screen.say("is for, and name it with --as: tacit server grant")
    _asked(screen, folder, request)


def server_join(screen: Screen, folder: Path, path: Path, heard: list[str], yes: bool) -> None:
    """Let the server go by the answer."""
    answer = read_answer(path)
    if not isinstance(answer, ServerAnswer):
        raise ParameterError(f"{path} is the answer to a device: tacit device join")
    trust = answer.issue.trust
    if not server_folder.has_joined(folder):
        compare(screen, "the authority", trust.fingerprint, heard, yes)
    served = server_folder.join(folder, answer, _now())
    roster = answer.issue.roster
    screen.say(f"{folder}: {answer.name}, of authority {trust.fingerprint}")
    screen.say(f"roster {roster.serial}, devices: {len(roster.members)}")
    screen.say(f"start it: tacit up --dir {folder}; one that is up goes by the answer from now on")
    for file in served.register:
        screen.fact(register=str(file))
    for file in served.unregister:
        screen.say(f"no node of this key is let in any more: {file}")
        screen.fact(unregister=str(file))
    screen.result(
        name=answer.name,
        fingerprint=trust.fingerprint,
        serial=roster.serial,
        devices=len(roster.members),
    )


def server_check(screen: Screen, folder: Path) -> None:
    """Find what is wrong. Ends with FAILED if anything is."""
    now, places = _now(), Places(folder)
    try:
        faults = server_folder.faults(folder, now) + modes.faults(places)
        if places.operators.exists():  # as it does once the server was up
            faults += history.faults(places)
        warned = [] if faults else server_folder.warnings(folder, now)
    except Damaged as bad:
        faults, warned = [str(bad)], []
    for fault in faults:
        complain(fault)
    for warning in warned:
        screen.say(f"soon: {warning}")
    if not faults:
        screen.say(f"{folder}: nothing is wrong")
    screen.result(folder=str(folder), faults=faults, warnings=warned)
    if faults:
        raise typer.Exit(FAILED)


def _asked(screen: Screen, folder: Path, request: Request) -> None:
    path = folder / f"{request.name}{enrolment.REQUEST}"
    screen.say(f"bring {path} to the authority, and read out its fingerprint:")
    screen.say(f"  {request.fingerprint}")
    screen.result(name=request.name, request=str(path), fingerprint=request.fingerprint)


def _done(screen: Screen, authority: Authority, written: Sequence[Path]) -> None:
    register = authority.register
    screen.say(f"roster {register.serial}, devices: {len(register.devices)}")
    if register.approval is not None:
        screen.say(f"approved by {register.approval.approver.hex()}")
    for path in written:
        screen.say(f"to bring: {path}")
        screen.fact(answer=str(path))
    screen.say(f"authority's fingerprint, to be read out: {register.trust.fingerprint}")
    screen.result(
        serial=register.serial,
        devices=len(register.devices),
        servers=len(register.servers),
        answers=[str(path) for path in written],
    )


def _approver(authority: Authority, path: Path | None) -> Identity | None:
    """Before anybody is asked anything: an act that cannot be done is refused at once."""
    key = None if path is None else authorities.read_approver(path)
    authorities.check_approver(authority.register.trust, key)
    return key


def _public(text: str) -> bytes:
    path = Path(text)
    return public_key(path.read_text(encoding="ascii") if path.is_file() else text)


def _day(at: int) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d}"


def _now() -> int:
    return int(time.time())
