"""What an authority does, one function an act: each is told in the log, and issues a roster.

All take `approve_by`, the key of a second person where the authority has approvers, and return the
answers that they wrote. Raise ParameterError, and nothing was done, for what cannot be: see
`tacit.app.register`. `now` is Unix time in seconds.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tacit.app import register as registers
from tacit.app.authority import Authority, check_approver
from tacit.app.certificates import DAY
from tacit.crypto.certificate import ends_at
from tacit.crypto.enrolment import DeviceRequest, Request
from tacit.crypto.errors import ParameterError
from tacit.crypto.identity import Identity
from tacit.server.kinds import Certified, Dismissed, Enrolled, Kind, Renewed, Revoked, Rotated


def enrol(
    authority: Authority, requests: Sequence[Request], now: int, approve_by: Identity | None = None
) -> list[Path]:
    """Let in devices and servers, all of them or none."""
    changed, kinds, key = _begun(authority), list[Kind](), authority.ca_key
    for request in requests:
        changed = registers.enrol(changed, request, key, now)
        if isinstance(request, DeviceRequest):
            made = changed.devices[-1]
            kinds.append(Enrolled(made.number, made.name, request.fingerprint, made.until))
        else:
            until = ends_at(changed.servers[-1].certificate)
            kinds.append(Certified(request.name, request.fingerprint, until))
    return authority.act(changed, kinds, now, approve_by)


def revoke(
    authority: Authority,
    named: str,
    reason: str,
    now: int,
    approve_by: Identity | None = None,
) -> list[Path]:
    """Put a device out, by its number or name, or a server by its name."""
    changed = _begun(authority)
    if (server := changed.server(named)) is not None:
        told: Kind = Dismissed(server.name, reason)
        return authority.act(registers.dismiss(changed, server), [told], now, approve_by)
    device = changed.find(named)
    told = Revoked(device.number, device.name, reason)
    return authority.act(registers.revoke(changed, device), [told], now, approve_by)


def rotate(
    authority: Authority,
    named: str,
    request: Request,
    now: int,
    approve_by: Identity | None = None,
) -> list[Path]:
    """Give a device, by number or name, or a server, by name, the keys of a request of its own."""
    changed = _begun(authority)
    if (server := changed.server(named)) is not None:
        changed = registers.rotate_server(changed, server, request, authority.ca_key, now)
        found = changed.server(named)
        until = ends_at(found.certificate) if found else 0
        told: Kind = Certified(server.name, request.fingerprint, until)
    else:
        device = changed.find(named)
        changed = registers.rotate(changed, device, request, now)
        until = now + changed.days * DAY
        told = Rotated(device.number, device.name, request.fingerprint, until)
    return authority.act(changed, [told], now, approve_by)


def renew(
    authority: Authority,
    now: int,
    approve_by: Identity | None = None,
    *,
    ca: str = "nothing",
    answers: bool = False,
    serial: int = 0,
) -> list[Path]:
    """Begin all memberships and server certificates anew.

    `ca` is what else is new: "nothing"; the CA's "certificate", which machines take over in their
    own time; or its "key", which ends whatever the old one certified, on a machine as soon as that
    has joined anew. With either, or with `answers`, there are answers for all devices. `serial` is
    the least for the roster, for an authority that was set back.
    """
    if ca not in ("nothing", "certificate", "key"):
        raise ParameterError(f"ca={ca!r}, expected nothing, certificate or key")
    changed = _begun(authority)
    if ca == "nothing":
        certificate, key = changed.ca, authority.ca_key
    else:
        check_approver(changed.trust, approve_by)  # before a key is made
        certificate, key = authority.new_ca(now, new_key=ca == "key")
    changed = registers.renew(changed, certificate, key, now, due=answers or ca != "nothing")
    told = Renewed(len(changed.devices), now + changed.days * DAY, ca)
    return authority.act(changed, [told], now, approve_by, serial)


def _begun(authority: Authority) -> registers.Register:
    """The register as an act finds it: nothing is due to anybody any more."""
    return replace(authority.register, due=())
