"""A register in bytes, signed by its authority. See `tacit.app.register`.

magic (16) | whether there is a roster (u8) | issue | days (u32) | last number (u64)
| entries in the log (u64) | devices | retired | servers | due | entries | signature (64)
"""

from collections.abc import Iterable
from dataclasses import replace

from tacit.app.register import MAX_SERVERS, EnrolledDevice, EnrolledServer, Register
from tacit.crypto import labels
from tacit.crypto.answers import MAX_CERTIFICATE, Issue
from tacit.crypto.enrolment import MAX_HOSTS
from tacit.crypto.errors import Damaged, ParameterError, ProtocolError
from tacit.crypto.identity import (
    KEY_BYTES,
    MAX_DEVICES,
    SIGNATURE_BYTES,
    Identity,
    Roster,
    verified,
)
from tacit.crypto.nodekey import NODE_KEY_BYTES
from tacit.crypto.wire import Reader, Writer

MAGIC = b"tacit register 1"


def encode(register: Register, authority: Identity) -> bytes:
    """The register in bytes, signed by the authority."""
    writer = Writer().fixed(MAGIC, len(MAGIC)).u8(register.roster is not None)
    first = register
    if register.roster is None:  # an issue has a roster: before the first, one that nobody sees
        blank = Roster.signed(authority, 0, (), bytes(32))
        first = replace(register, roster=blank)
    first.issue.write(writer)
    writer.u32(register.days).u64(register.last).u64(register.logged)
    _write_devices(writer, register.devices)
    _write_devices(writer, register.retired)
    writer.u32(len(register.servers))
    for each in register.servers:
        writer.text(each.name).text(each.address).fixed(each.key, NODE_KEY_BYTES)
        writer.blob(each.certificate).u32(len(each.hosts))
        for host in each.hosts:
            writer.text(host)
    writer.u32(len(register.due))
    for number in register.due:
        writer.u64(number)
    writer.u32(len(register.entries))
    for entry in register.entries:
        writer.blob(entry)
    body = writer.data()
    return body + authority.sign(labels.REGISTER, body)


def decode(data: bytes, authority: bytes) -> Register:
    """What `encode` wrote. Raises Damaged for bytes that the authority did not sign."""
    body, signature = data[:-SIGNATURE_BYTES], data[-SIGNATURE_BYTES:]
    if not data.startswith(MAGIC) or not verified(authority, labels.REGISTER, body, signature):
        raise Damaged("the authority's register is not what it wrote: it was altered, or cut short")
    reader = Reader(body, sender=0, stage="register")
    reader.fixed(len(MAGIC))
    try:
        return _read(reader, has_roster=bool(reader.u8()))
    except (ProtocolError, ParameterError) as bad:
        raise Damaged(f"the authority's register cannot be read: {bad}") from None


def _read(reader: Reader, *, has_roster: bool) -> Register:
    issue = Issue.read(reader)
    days, last, logged = reader.u32(), reader.u64(), reader.u64()
    devices, retired = _read_devices(reader), _read_devices(reader)
    servers = []
    for _ in range(reader.count(MAX_SERVERS)):
        name, address, key = reader.text(), reader.text(), reader.fixed(NODE_KEY_BYTES)
        certificate = reader.blob(MAX_CERTIFICATE)
        hosts = tuple(reader.text() for _ in range(reader.count(MAX_HOSTS)))
        servers.append(EnrolledServer(name, hosts, address, key, certificate))
    due = tuple(reader.u64() for _ in range(reader.count(MAX_DEVICES)))
    entries = tuple(reader.blob() for _ in range(reader.count(MAX_DEVICES)))
    reader.end()
    return Register(
        issue.trust,
        issue.ca,
        days,
        issue.issued,
        issue.roster if has_roster else None,
        issue.approval,
        devices,
        retired,
        tuple(servers),
        last,
        due,
        entries,
        logged,
    )


def _write_devices(writer: Writer, devices: Iterable[EnrolledDevice]) -> None:
    listed = tuple(devices)
    writer.u32(len(listed))
    for each in listed:
        writer.u64(each.number).text(each.name).fixed(each.public, KEY_BYTES)
        writer.fixed(each.node, NODE_KEY_BYTES).u64(each.until)


def _read_devices(reader: Reader) -> tuple[EnrolledDevice, ...]:
    return tuple(
        EnrolledDevice(
            reader.u64(),
            reader.text(),
            reader.fixed(KEY_BYTES),
            reader.fixed(NODE_KEY_BYTES),
            reader.u64(),
        )
        for _ in range(reader.count(MAX_DEVICES))
    )
