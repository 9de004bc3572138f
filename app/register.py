"""What an authority knows: whom it enrolled, whom it let go, its servers, and its last act.

A `Register` is a value: each act makes a new one, and none of them reads a clock or a file. It
holds no private key. `Authority` signs it, so that a folder that was altered shows.

Numbers of devices are given once. A key that was enrolled once is not enrolled again, not even
after its device was revoked: or its old request would let it in anew.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from tacit.app.certificates import DAY, SERVER_DAYS, SKEW, certify
from tacit.crypto.answers import Issue, Node
from tacit.crypto.approval import Approval, Trust
from tacit.crypto.enrolment import DeviceRequest, Request, ServerRequest
from tacit.crypto.errors import ParameterError
from tacit.crypto.identity import Member, Roster
from tacit.crypto.nodekey import NodeKey

MAX_SERVERS = 64


@dataclass(frozen=True, slots=True)
class EnrolledDevice:
    """A member of the roster, by name, and its key for Flower. `until` is Unix time."""

    number: int
    name: str
    public: bytes
    node: bytes
    until: int


@dataclass(frozen=True, slots=True)
class EnrolledServer:
    """A server, by name, where devices reach it, and its TLS key with a certificate in DER."""

    name: str
    hosts: tuple[str, ...]
    address: str
    key: bytes
    certificate: bytes


@dataclass(frozen=True, slots=True)
class Register:
    """Everything but keys. `retired` are devices as they were: revoked, or with earlier keys.

    `roster` and `approval` are those of the last act, `due` the devices that it has answers for,
    `entries` what the log says of it, and `logged` how many entries the log has after it.
    """

    trust: Trust
    ca: bytes
    days: int
    issued: int = 0
    roster: Roster | None = None
    approval: Approval | None = None
    devices: tuple[EnrolledDevice, ...] = ()
    retired: tuple[EnrolledDevice, ...] = ()
    servers: tuple[EnrolledServer, ...] = ()
    last: int = 0  # number that was given to a device
    due: tuple[int, ...] = ()
    entries: tuple[bytes, ...] = ()
    logged: int = 0

    @property
    def serial(self) -> int:
        """Of the last roster, 0 before the first."""
        return 0 if self.roster is None else self.roster.serial

    @property
    def members(self) -> tuple[Member, ...]:
        return tuple(Member(each.number, each.public, each.until) for each in self.devices)

    @property
    def issue(self) -> Issue:
        """What all answers after the last act say. Raises ParameterError before the first."""
        if self.roster is None:
            raise ParameterError("this authority has enrolled nobody yet")
        address = self.servers[0].address if self.servers else ""
        return Issue(self.trust, self.issued, self.ca, address, self.roster, self.approval)

    @property
    def names(self) -> tuple[str, ...]:
        """Of all devices and servers: no two are alike, since each names a file."""
        devices = (each.name for each in self.devices)
        return (*devices, *(each.name for each in self.servers))

    @property
    def nodes(self) -> tuple[Node, ...]:
        """Keys that may connect."""
        return _nodes(self.devices)

    @property
    def unregistered(self) -> tuple[Node, ...]:
        """Keys that may connect no longer."""
        return _nodes(self.retired)

    def find(self, named: str) -> EnrolledDevice:
        """A device by number or name. Raises ParameterError if none that is enrolled has it."""
        for each in self.devices:
            if named in (str(each.number), each.name):
                return each
        if any(named in (str(each.number), each.name) for each in self.retired):
            raise ParameterError(f"device {named} was revoked already")
        raise ParameterError(f"no device {named} is enrolled: tacit authority show lists them")

    def server(self, named: str) -> EnrolledServer | None:
        """A server by its name, None if there is none."""
        return next((each for each in self.servers if each.name == named), None)


def enrol(register: Register, request: Request, ca_key: NodeKey, now: int) -> Register:
    """The register with one more device, or server. Raises ParameterError for a name or a key that
    was enrolled before, and for a request from the future."""
    _check_request(register, request, now)
    if request.name.casefold() in {name.casefold() for name in register.names}:
        raise ParameterError(f"the name {request.name} is taken: let it be initialised by another")
    if isinstance(request, ServerRequest):
        if len(register.servers) == MAX_SERVERS:
            raise ParameterError(f"an authority has at most {MAX_SERVERS} servers")
        made = _certified(register.ca, request, ca_key, now)
        return replace(register, servers=(*register.servers, made))
    number = register.last + 1
    device = EnrolledDevice(
        number, request.name, request.public, request.node, now + register.days * DAY
    )
    devices, due = (*register.devices, device), (*register.due, number)
    return replace(register, devices=devices, due=due, last=number)


def revoke(register: Register, device: EnrolledDevice) -> Register:
    """The register without this device, whose keys are retired."""
    rest = tuple(each for each in register.devices if each != device)
    return replace(register, devices=rest, retired=(*register.retired, device))


def dismiss(register: Register, server: EnrolledServer) -> Register:
    """The register without this server."""
    rest = tuple(each for each in register.servers if each != server)
    return replace(register, servers=rest)


def rotate(register: Register, device: EnrolledDevice, request: Request, now: int) -> Register:
    """The register with other keys for the same device. Raises ParameterError as `enrol`, and for
    the request of another device."""
    _check_rotation(register, device.name, request, now)
    if not isinstance(request, DeviceRequest):
        raise ParameterError(f"{device.name} is a device, and the request a server's")
    until = now + register.days * DAY
    fresh = EnrolledDevice(device.number, device.name, request.public, request.node, until)
    devices = tuple(fresh if each == device else each for each in register.devices)
    retired, due = (*register.retired, device), (*register.due, device.number)
    return replace(register, devices=devices, retired=retired, due=due)


def rotate_server(
    register: Register, server: EnrolledServer, request: Request, ca_key: NodeKey, now: int
) -> Register:
    """The register with another key, and maybe other addresses, for the same server."""
    _check_rotation(register, server.name, request, now)
    if not isinstance(request, ServerRequest):
        raise ParameterError(f"{server.name} is a server, and the request a device's")
    fresh = _certified(register.ca, request, ca_key, now)
    servers = tuple(fresh if each == server else each for each in register.servers)
    return replace(register, servers=servers)


def renew(register: Register, ca: bytes, ca_key: NodeKey, now: int, *, due: bool) -> Register:
    """The register with all memberships and server certificates begun anew, under the certificate
    `ca`. With `due` there are answers for all devices."""
    until = now + register.days * DAY
    devices = tuple(replace(each, until=until) for each in register.devices)
    servers = tuple(
        replace(each, certificate=certify(ca, ca_key, each.key, each.hosts, now, SERVER_DAYS))
        for each in register.servers
    )
    numbers = tuple(each.number for each in devices) if due else ()
    return replace(register, ca=ca, devices=devices, servers=servers, due=numbers)


def _check_request(register: Register, request: Request, now: int) -> None:
    if request.made > now + SKEW:
        raise ParameterError(
            f"the request of {request.name} was made {request.made - now} s from now: one of the "
            "two clocks is wrong, set it and make the request again"
        )
    known = (*register.devices, *register.retired)
    used = {each.public for each in known} | {each.node for each in known}
    used |= {each.key for each in register.servers}
    keys = {request.key} if isinstance(request, ServerRequest) else {request.public, request.node}
    if keys & used:
        raise ParameterError(
            f"the request of {request.name} has a key that is enrolled already, or was: each "
            "enrolment takes new keys"
        )


def _check_rotation(register: Register, name: str, request: Request, now: int) -> None:
    if request.name != name:
        raise ParameterError(
            f"the request is by {request.name}, and it is {name} that would change"
        )
    _check_request(register, request, now)


def _certified(ca: bytes, request: ServerRequest, key: NodeKey, now: int) -> EnrolledServer:
    certificate = certify(ca, key, request.key, request.hosts, now, SERVER_DAYS)
    return EnrolledServer(request.name, request.hosts, request.address, request.key, certificate)


def _nodes(devices: Iterable[EnrolledDevice]) -> tuple[Node, ...]:
    return tuple(Node(each.number, each.name, each.node) for each in devices)
