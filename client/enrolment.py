"""A device's own side of enrolment: its keys are made here, and leave the vault for nobody.

    prepare   a new vault: a policy, an identity, a node key, and a request for the authority
    renew     in a vault that is enrolled: new keys, and a request; the old ones hold until
    join      the authority's answer: from then on the device is who the answer says

Beside the sealed slots a vault then has plain files for the device's node: its private key, mode
0600, the CA's certificate, and the server's address. They are written again by every `join`, which
may be stopped and started over at any point.

The ledger and the counters of a device stay in its vault when its keys change: a device that got
new ones by a new vault would forget what it has spent.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path

from tacit.client import diary
from tacit.client.checks import ROSTER_SLOT
from tacit.client.device import (
    Device,
    is_enrolled,
    load_device,
    load_policy,
    save_device,
    save_policy,
)
from tacit.client.files import SHARED_MODE, new_folder, replace_file
from tacit.client.policy import Policy
from tacit.client.vault import FileVault
from tacit.crypto.answers import DeviceAnswer, check_newer
from tacit.crypto.certificate import check_time, pem
from tacit.crypto.enrolment import DeviceRequest
from tacit.crypto.errors import ParameterError
from tacit.crypto.identity import KEY_BYTES, Identity, Roster
from tacit.crypto.nodekey import RAND_BYTES, NodeKey, openssh_line
from tacit.crypto.wire import Reader, Writer

SKEW = 300  # seconds that this clock may be behind the authority's
NODE_KEY, NODE_PUBLIC, CA, ADDRESS = "node.key", "node.key.pub", "ca.crt", "address"
REQUEST = ".request"
_PENDING = "pending"  # keys that wait for an answer
_NAME = "name"
_HEARD = "fingerprint"  # of the authority and its approvers, as it was compared by voice


@dataclass(frozen=True, slots=True)
class Keys:
    """What a device is known by: to the others, and to Flower."""

    identity: Identity
    node: NodeKey

    @classmethod
    def new(cls) -> "Keys":
        return cls(Identity(os.urandom(KEY_BYTES)), NodeKey(os.urandom(RAND_BYTES)))


@dataclass(frozen=True, slots=True)
class Joined:
    """A device that an answer made one of the roster's. `changed` is whether its keys are new."""

    device: Device = field(repr=False)
    answer: DeviceAnswer
    changed: bool


def prepare(folder: Path, name: str, policy: Policy, now: int) -> DeviceRequest:
    """Make a vault with keys that wait for an answer; the request is in its file NAME.request, too.

    Raises ParameterError for a name that is none, or if something is in the folder.
    """
    keys = Keys.new()
    request = DeviceRequest.signed(name, now, keys.identity, keys.node)
    with new_folder(folder) as fresh:
        vault = FileVault.create(fresh, os.urandom(32))
        save_policy(vault, policy)
        _keep(vault, keys, name, request)
    return request


def renew(vault: FileVault, now: int) -> DeviceRequest:
    """Make new keys for a device that has some; it goes by the old ones until it joins anew.

    Asked again, it makes others, and the earlier request is of no use any more. Raises
    ParameterError if the vault holds no device.
    """
    with vault.alone():
        if not is_enrolled(vault):
            raise ParameterError("this device has not joined yet: there is nothing to renew")
        name = name_of(vault)
        keys = Keys.new()
        request = DeviceRequest.signed(name, now, keys.identity, keys.node)
        _keep(vault, keys, name, request)
        return request


def join(vault: FileVault, answer: DeviceAnswer, now: int) -> Joined:
    """Become the device of the answer, trust its authority, and keep its roster.

    With an answer to keys that the device has already, it takes over the newer roster, certificate
    and address. Raises ParameterError, and nothing has changed, for an answer to somebody else's
    request, one of another authority than before, one that is older than what the device holds, and
    where the clock is wrong or the membership over.
    """
    with vault.alone():
        check(vault, answer, now)
        keys = _pending(vault)
        is_new = keys is not None and keys.identity.public == answer.public
        if keys is not None and is_new:
            replace_file(vault.folder / NODE_KEY, keys.node.openssh())
        diary.note(vault, diary.Joined(answer.device, answer.issue.roster.serial, is_new), now)
        _write_files(vault.folder, answer)
        vault.write(_HEARD, answer.issue.trust.fingerprint.encode())
        vault.write(ROSTER_SLOT, answer.issue.roster.encode())
        authority = answer.issue.trust.authority
        if keys is not None and is_new:
            # The last step that counts. What follows only tidies up, and a second call does it.
            save_device(vault, answer.device, keys.identity, authority, load_policy(vault))
            vault.take(_PENDING)
            (vault.folder / f"{answer.name}{REQUEST}").unlink(missing_ok=True)
        return Joined(load_device(vault), answer, is_new)


def check(vault: FileVault, answer: DeviceAnswer, now: int) -> None:
    """Raises ParameterError as `join` does; changes nothing."""
    held = load_device(vault) if is_enrolled(vault) else None
    _check_whose(held, _pending(vault), name_of(vault), answer)
    _check_time(answer, now)
    _check_newest(vault, answer.issue.roster)


def name_of(vault: FileVault) -> str:
    """What the device's owner called it. Raises ParameterError for one made by hand."""
    if (name := vault.read(_NAME)) is None:
        raise ParameterError(
            "this vault has no name: it was not made by tacit device init, and has no keys for "
            "Flower"
        )
    return name.decode()


def fingerprint_of(vault: FileVault) -> str | None:
    """Of the authority, as the newest answer had it. None for a vault of an earlier version."""
    heard = vault.read(_HEARD)
    return None if heard is None else heard.decode()


def _check_whose(held: Device | None, keys: Keys | None, name: str, answer: DeviceAnswer) -> None:
    """Raises ParameterError unless the answer is to keys of this device."""
    trust = answer.issue.trust
    if held is not None and held.authority != trust.authority:
        raise ParameterError(
            f"this device has joined another authority than that of the answer, {trust.fingerprint}"
            ": a device belongs to one, and joins another with a new vault"
        )
    known = {(each.identity.public, each.node.public) for each in (keys,) if each is not None}
    is_ours = (answer.public, answer.node) in known
    if held is not None and held.identity.public == answer.public:
        is_ours = True
    if not is_ours or answer.name != name:
        raise ParameterError(
            f"the answer is for {answer.name}, with other keys than this vault's, {name}: it is "
            "for another device, or to an earlier request of this one"
        )
    if held is not None and held.number != answer.device:
        raise ParameterError(
            f"this is device {held.number}, and the answer makes it {answer.device}: ask the "
            "authority to rotate its keys, not to enrol it anew"
        )


def _check_time(answer: DeviceAnswer, now: int) -> None:
    """Raises ParameterError unless the answer, its CA and the membership are valid now."""
    if answer.issue.issued > now + SKEW:
        raise ParameterError(
            f"the answer was made {answer.issue.issued - now} s from now, by this machine's clock: "
            "set the clock"
        )
    check_time(
        answer.issue.ca, now, "the CA's certificate", "ask the authority for tacit authority renew"
    )
    if answer.issue.roster.member(answer.device, now=0).valid_until < now:
        raise ParameterError(
            "this device's membership is over, by this machine's clock: ask the authority to renew "
            "it, unless the clock is wrong"
        )


def _check_newest(vault: FileVault, roster: Roster) -> None:
    """Raises ParameterError for a roster older than the one held, or another of the same serial."""
    if (data := vault.read(ROSTER_SLOT)) is None:
        return
    check_newer(Roster.decode(data), roster)


def _write_files(folder: Path, answer: DeviceAnswer) -> None:
    public = openssh_line(answer.node, answer.name)
    replace_file(folder / NODE_PUBLIC, public, SHARED_MODE)
    replace_file(folder / CA, pem(answer.issue.ca), SHARED_MODE)
    replace_file(folder / ADDRESS, answer.issue.address.encode() + b"\n", SHARED_MODE)


def _keep(vault: FileVault, keys: Keys, name: str, request: DeviceRequest) -> None:
    writer = Writer().fixed(keys.identity.secret, KEY_BYTES).fixed(keys.node.secret, RAND_BYTES)
    vault.write(_NAME, name.encode())
    vault.write(_PENDING, writer.data())
    replace_file(vault.folder / f"{name}{REQUEST}", request.encode(), SHARED_MODE)


def _pending(vault: FileVault) -> Keys | None:
    if (data := vault.read(_PENDING)) is None:
        return None
    reader = Reader(data, sender=0, stage="vault")
    keys = Keys(Identity(reader.fixed(KEY_BYTES)), NodeKey(reader.fixed(RAND_BYTES)))
    reader.end()
    return keys
