"""The bytes of keys, contributions and sums: who wrote them with what, then the ciphertexts.

Formats of the library change between its versions, and it notices late or badly. So its version is
the first thing in every frame, and one version reads only its own. Then come all parameters, the
number of blocks, and each block with its length: everything is checked against what is expected
here, and against the most it can take, before a byte is given to the library. What is in a block is
the library's, which reads more than it writes: the bytes of a block are not the only ones for it.
"""

from enum import IntEnum
from functools import cache
from importlib import metadata
from typing import TypeAlias, cast

from tacit.crypto.errors import ParameterError
from tacit.crypto.he.packing import Packing
from tacit.crypto.he.sets import Scheme
from tacit.crypto.wire import VERSION, Reader, Writer

Octets: TypeAlias = bytes | memoryview


class Kind(IntEnum):
    """What a frame holds."""

    KEY = 1
    CONTRIBUTION = 2
    SUM = 3


@cache
def library() -> str:
    """The version of TenSEAL installed. Raises ParameterError if there is none."""
    try:
        return metadata.version("tenseal")
    except metadata.PackageNotFoundError:
        raise ParameterError(
            "homomorphic sums need TenSEAL: pip install '.[he]' in Tacit's checkout"
        ) from None


def _head(kind: Kind, scheme: Scheme) -> Writer:
    return Writer().u8(VERSION).text(library()).u8(kind).u8(scheme.number)


def _read_head(reader: Reader, kind: Kind, scheme: Scheme) -> None:
    if (version := reader.u8()) != VERSION:
        raise reader.bad(f"frame of version {version}, we speak {VERSION}")
    theirs = reader.text(32)
    if theirs != library():
        raise reader.bad(f"made by tenseal {theirs!r}, which {library()!r} here does not read")
    found, number = reader.u8(), reader.u8()
    if found != kind:
        raise reader.bad(f"frame of kind {found}, expected {kind.value} ({kind.name.lower()})")
    if number != scheme.number:
        raise reader.bad(f"parameter set {number}, expected {scheme.number} ({scheme.name})")


def key_frame(scheme: Scheme, secret: bytes) -> bytes:
    """A serialised secret key."""
    return _head(Kind.KEY, scheme).blob(secret).data()


def read_key(reader: Reader, scheme: Scheme) -> bytes:
    """What `key_frame` was made of. Raises MalformedMessage."""
    _read_head(reader, Kind.KEY, scheme)
    return reader.blob(scheme.key_bytes)


def frame(kind: Kind, packing: Packing, count: int, blocks: list[bytes]) -> bytes:
    """A contribution (`count` is 1), or the sum of `count` of them."""
    writer = _head(kind, packing.scheme).u32(packing.size).u8(packing.bits).u32(packing.clients)
    writer.u32(count).u32(len(blocks))
    for block in blocks:
        writer.blob(block)
    return writer.data()


def read_frame(
    data: Octets, kind: Kind, packing: Packing, *, sender: int, stage: str
) -> tuple[int, list[memoryview]]:
    """`count` and the blocks, unopened: views of `data`. Raises MalformedMessage for any other."""
    # A Reader takes whatever bytes are in.
    reader = Reader(cast("bytes", data), sender=sender, stage=stage)
    _read_head(reader, kind, packing.scheme)
    size, bits, clients = reader.u32(), reader.u8(), reader.u32()
    if (size, bits, clients) != (packing.size, packing.bits, packing.clients):
        raise reader.bad(
            f"{size} elements of {bits} bits for {clients} devices, expected {packing.size} of "
            f"{packing.bits} for {packing.clients}"
        )
    count, blocks = reader.u32(), reader.u32()
    most = 1 if kind == Kind.CONTRIBUTION else packing.clients
    if not 1 <= count <= most:
        raise reader.bad(f"a sum of {count}, expected 1..{most}")
    if blocks != packing.blocks:
        raise reader.bad(f"{blocks} ciphertexts, expected {packing.blocks}")
    scheme = packing.scheme
    limit = scheme.contribution_bytes if kind == Kind.CONTRIBUTION else scheme.ciphertext_bytes
    views = [_view(reader, limit) for _ in range(blocks)]
    reader.end()
    return count, views


def _view(reader: Reader, limit: int) -> memoryview:
    if (size := reader.u32()) > limit:
        raise reader.bad(f"a ciphertext of {size} bytes, at most {limit} allowed")
    return reader.view(size)


def frame_bytes(kind: Kind, packing: Packing) -> int:
    """The most that a frame of this kind may take: refuse more before reading it."""
    scheme = packing.scheme
    limit = scheme.contribution_bytes if kind == Kind.CONTRIBUTION else scheme.ciphertext_bytes
    return 64 + packing.blocks * (4 + limit)
