"""The machine that a server or a device is on: who else is there, and what they can see.

Read from Linux's /proc. Where there is none, or it does not show other people's processes, a line
says so.
"""

import os
import shutil
import socket
import stat
from base64 import b64encode
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

from tacit.app.deployment.findings import Finding, careful, each, ok, unknown, wrong

PROC = Path("/proc")
LEAST_FREE = 2 << 30  # bytes
_LISTENING = "0A"  # of /proc/net/tcp
_FIRST_USER = 1000  # of people, by Linux's custom


def processes() -> Iterator[Path]:
    """A folder of /proc for each process."""
    if PROC.is_dir():
        yield from (path for path in PROC.iterdir() if path.name.isdecimal())


def arguments(process: Path) -> bytes:
    """A process's command line, b"" if it is not to be seen."""
    return _read(process / "cmdline")


def root() -> Iterator[Finding]:
    """Whether we are."""
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        yield careful(
            "user",
            "this is root",
            "a user of its own loses less: the systemd units and images have one",
        )
    else:
        yield ok("user", "not root")


def disk(path: Path) -> Iterator[Finding]:
    """Whether there is room to go on."""
    free = shutil.disk_usage(path).free
    said = f"{free / 1e9:.1f} GB free at {path}"
    if free < LEAST_FREE:
        yield wrong("disk", said, "make room: runs, logs and released models are in the folder")
    else:
        yield ok("disk", said)


def private(paths: list[Path]) -> Iterator[Finding]:
    """That nobody but their owner may touch these files."""
    faults = [
        f"others may read {path}"
        for path in paths
        if path.is_file() and stat.S_IMODE(path.stat().st_mode) & 0o077
    ]
    yield from each("secret files", faults, f"{len(paths)} files, all of mode 0600", "chmod 600")


def secrets_shown(files: list[Path]) -> Iterator[Finding]:
    """That no process has one of these secrets among its arguments, or in its environment."""
    what, secrets = "secrets of processes", list(_spelled(files))
    if not PROC.is_dir():
        yield unknown(what, "this system has no /proc")
        return
    found, hidden = [], 0
    for process in processes():
        for name in ("cmdline", "environ"):
            try:
                shown = (process / name).read_bytes()
            except ProcessLookupError:
                continue
            except OSError:
                hidden += 1
                continue
            if any(secret in shown for secret in secrets):
                place = "its arguments" if name == "cmdline" else "its environment"
                found.append(f"process {process.name} has a secret in {place}")
    shut = f"; of {hidden} others it is not ours to see" if hidden else ""
    yield from each(what, found, f"none among arguments, or in an environment{shut}", "restart it")


def listeners(mark: bytes) -> Iterator[Finding]:
    """That processes with `mark` on their command line listen on the loopback only."""
    what, ours = "ports of SuperLink", [path for path in processes() if mark in arguments(path)]
    if not ours:
        yield unknown(what, "no SuperLink of this folder runs here")
        return
    held = {inode for path in ours for inode in _sockets(path)}
    if not held:
        yield unknown(what, "its sockets are not ours to see", "ask as the user that runs it")
        return
    bound = [(address, port) for address, port, inode in _listening() if inode in held]
    open_to_all = [f"{address} port {port}" for address, port in bound if not _is_loopback(address)]
    remedy = "start it by tacit up, which keeps it on the loopback: it asks nobody who calls"
    open_to_all += [
        f"port {port} answers at {address}"
        for address in sorted(_own_addresses())
        for _, port in bound
        if _answers(address, port)
    ]
    shown = ", ".join(f"{address}:{port}" for address, port in bound)
    yield from each(what, open_to_all, f"only {shown}", remedy)


def others_here() -> Iterator[Finding]:
    """Who else is on this machine, as Control on the loopback asks nobody who calls."""
    what = "others on this machine"
    if not PROC.is_dir() or not hasattr(os, "geteuid"):
        yield unknown(what, "this system has no /proc")
        return
    owners = set()
    for process in processes():
        try:
            owners.add(process.stat().st_uid)
        except OSError:
            continue
    people = sorted(owner for owner in owners - {os.geteuid(), 65534} if owner >= _FIRST_USER)
    if people:
        yield careful(
            what,
            f"users {', '.join(map(str, people))} run processes here, and can call SuperLink's "
            "Control API on the loopback, which asks nobody",
            "give the server a machine, or a container, of its own",
        )
    else:
        yield ok(what, "no people's but the server's user; root can do everything anyway")


def _spelled(files: list[Path]) -> Iterator[bytes]:
    """Each secret as it might stand in an argument."""
    for path in files:
        content = _read(path)
        lines = [line for line in content.splitlines() if b"-----" not in line and len(line) >= 32]
        yield from lines if content.startswith(b"-----BEGIN") else []
        if 16 <= len(content) <= 128:
            yield from (content, content.hex().encode(), b64encode(content).rstrip(b"="))


def _sockets(process: Path) -> Iterator[str]:
    try:
        links = [str(handle.readlink()) for handle in (process / "fd").iterdir()]
    except OSError:
        return
    yield from (link[8:-1] for link in links if link.startswith("socket:["))


def _listening() -> Iterator[tuple[str, int, str]]:
    """Address, port and inode of each socket of this machine that listens."""
    for name in ("tcp", "tcp6"):
        for line in _read(PROC / "net" / name).decode().splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTENING:
                host, _, port = fields[1].partition(":")
                yield _address(host), int(port, 16), fields[9]


def _address(text: str) -> str:
    """Of /proc/net: words of four bytes, each in the machine's order, which is little here."""
    words = [bytes.fromhex(text[at : at + 8])[::-1] for at in range(0, len(text), 8)]
    found = ip_address(b"".join(words))
    mapped = getattr(found, "ipv4_mapped", None)
    return str(mapped or found)


def _is_loopback(address: str) -> bool:
    return ip_address(address).is_loopback


def _own_addresses() -> set[str]:
    found = set()
    try:
        named = {str(info[4][0]) for info in socket.getaddrinfo(socket.gethostname(), None)}
    except OSError:
        named = set()
    for family, far in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as asking:
                asking.connect((far, 9))  # sends nothing: only asks which address would be used
                named.add(str(asking.getsockname()[0]))
        except OSError:
            continue
    for address in named:
        plain = address.partition("%")[0]
        if not _is_loopback(plain) and not ip_address(plain).is_unspecified:
            found.add(address)
    return found


def _answers(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=1.0).close()
    except OSError:
        return False
    return True


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
