"""An append-only Merkle tree over SHA-256: RFC 6962, section 2.1, and RFC 9162, section 2.1.

A `Head`, a size and a root, fixes every entry and their order. Two short proofs go with it:

    inclusion     this entry is the one with this number below that head
    consistency   the tree of the older head is the beginning of that of the newer one

Entries and inner nodes are hashed with different first bytes, or a node could be shown as an entry.
Who appends needs a `Frontier` only, about log2(n) hashes; who makes proofs keeps a `Tree`.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from tacit.crypto.errors import ParameterError

HASH_BYTES = 32
EMPTY = hashlib.sha256(b"").digest()  # the root of no entries
MAX_SIZE = 1 << 63
_LEAF, _NODE = b"\x00", b"\x01"


def leaf_hash(entry: bytes) -> bytes:
    """What an entry is in the tree, 32 bytes."""
    return hashlib.sha256(_LEAF + entry).digest()


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(_NODE + left + right).digest()


@dataclass(frozen=True, slots=True)
class Head:
    """So many entries below this root. Neither says much without the other: a root alone does not
    tell the size of its tree, so a proof is held against a pair that somebody signed together."""

    size: int
    root: bytes

    def __post_init__(self) -> None:
        if not 0 <= self.size < MAX_SIZE:
            raise ParameterError(f"a tree of {self.size} entries")
        if len(self.root) != HASH_BYTES:
            raise ParameterError(f"a root is {HASH_BYTES} bytes")
        if self.size == 0 and self.root != EMPTY:
            raise ParameterError("the root of no entries is a fixed one, not this")

    def includes(self, index: int, leaf: bytes, proof: Iterable[bytes]) -> bool:
        """Whether `proof` shows that entry `index`, from 0, hashes to `leaf`.

        RFC 9162, section 2.1.3.2.
        """
        if not 0 <= index < self.size or len(leaf) != HASH_BYTES:
            return False
        at, last, found = index, self.size - 1, leaf
        for sibling in proof:
            if last == 0 or len(sibling) != HASH_BYTES:
                return False
            if at % 2 or at == last:
                found = _node(sibling, found)
                while not at % 2 and at:
                    at, last = at // 2, last // 2
            else:
                found = _node(found, sibling)
            at, last = at // 2, last // 2
        return last == 0 and found == self.root

    def extends(self, older: "Head", proof: Iterable[bytes]) -> bool:
        """Whether `proof` shows that the entries below `older` are the first of those below this.

        RFC 9162, section 2.1.4.2; every tree extends the empty one, and that takes no proof.
        """
        path = list(proof)
        if older.size == 0 or older.size >= self.size:
            return not path and (older.size == 0 or older == self)
        if older.size & (older.size - 1) == 0:  # a whole subtree: its root is known already
            path.insert(0, older.root)
        if not path or any(len(part) != HASH_BYTES for part in path):
            return False
        at, last = older.size - 1, self.size - 1
        while at % 2:
            at, last = at // 2, last // 2
        before = after = path[0]
        for sibling in path[1:]:
            if last == 0:
                return False
            if at % 2 or at == last:
                before, after = _node(sibling, before), _node(sibling, after)
                while not at % 2 and at:
                    at, last = at // 2, last // 2
            else:
                after = _node(after, sibling)
            at, last = at // 2, last // 2
        return last == 0 and before == older.root and after == self.root


@dataclass(frozen=True, slots=True)
class Frontier:
    """The whole subtrees that a tree of `size` entries is made of, by their roots, widest first.

    There is one for each 1 in the binary digits of `size`.
    """

    size: int = 0
    roots: tuple[bytes, ...] = ()

    def extended(self, leaves: Iterable[bytes]) -> "Frontier":
        """With these leaf hashes after those that are there."""
        size, roots = self.size, list(self.roots)
        for leaf in leaves:
            found, digits = leaf, size
            while digits % 2:  # a subtree as wide as what is to be added is there: they are one
                found, digits = _node(roots.pop(), found), digits // 2
            roots.append(found)
            size += 1
        return Frontier(size, tuple(roots))

    @property
    def head(self) -> Head:
        """Size and root."""
        if not self.roots:
            return Head(0, EMPTY)
        *wider, found = self.roots
        for root in reversed(wider):
            found = _node(root, found)
        return Head(self.size, found)


class Tree:
    """All hashes of a growing tree, 64 bytes an entry, for proofs about any size it ever had.

    Level k has the roots of the whole subtrees of 2**k entries, so that a proof looks up what it
    needs, about log2(n) of them, and hashes no entry again.
    """

    def __init__(self, leaves: Iterable[bytes] = ()) -> None:
        self._levels: list[bytearray] = [bytearray()]
        for leaf in leaves:
            self.append(leaf)

    @property
    def size(self) -> int:
        return len(self._levels[0]) // HASH_BYTES

    def append(self, leaf: bytes) -> None:
        """Raises ParameterError for anything but a leaf hash."""
        if len(leaf) != HASH_BYTES:
            raise ParameterError(f"a leaf hash is {HASH_BYTES} bytes")
        found, number, level = leaf, self.size, 0
        self._levels[0] += leaf
        while number % 2:
            found = _node(self._at(level, number - 1), found)
            number, level = number // 2, level + 1
            if level == len(self._levels):
                self._levels.append(bytearray())
            self._levels[level] += found

    def head(self, size: int) -> Head:
        """Of the first `size` entries. Raises ParameterError beyond those there are."""
        self._check(size)
        return Head(size, self._root(0, size) if size else EMPTY)

    def inclusion(self, index: int, size: int) -> list[bytes]:
        """The proof that entry `index` is below the head of `size`: RFC 9162, section 2.1.3.1.

        Raises ParameterError unless 0 <= index < size and there are so many entries.
        """
        self._check(size)
        if not 0 <= index < size:
            raise ParameterError(f"entry {index} of {size}")
        path, first, end = [], 0, size
        while end - first > 1:
            middle = first + _split(end - first)
            if index < middle:
                path.append(self._root(middle, end))
                end = middle
            else:
                path.append(self._root(first, middle))
                first = middle
        return path[::-1]

    def consistency(self, older: int, size: int) -> list[bytes]:
        """The proof that the head of `size` extends that of `older`: RFC 9162, section 2.1.4.1.

        Raises ParameterError unless 0 <= older <= size and there are so many entries.
        """
        self._check(size)
        if not 0 <= older <= size:
            raise ParameterError(f"a tree of {older} entries is not the beginning of one of {size}")
        if older in (0, size):
            return []
        path, first, end = [], 0, size
        while older != end:
            middle = first + _split(end - first)
            if older <= middle:
                path.append(self._root(middle, end))
                end = middle
            else:
                path.append(self._root(first, middle))
                first = middle
        if first:  # else the verifier has it: it is the older root
            path.append(self._root(first, end))
        return path[::-1]

    def _root(self, first: int, end: int) -> bytes:
        """Of the entries first..end-1, where `first` is a multiple of the widest subtree there."""
        width = end - first
        if width & (width - 1) == 0:
            level = width.bit_length() - 1
            return self._at(level, first >> level)
        middle = first + _split(width)
        return _node(self._root(first, middle), self._root(middle, end))

    def _at(self, level: int, number: int) -> bytes:
        return bytes(self._levels[level][number * HASH_BYTES : (number + 1) * HASH_BYTES])

    def _check(self, size: int) -> None:
        if not 0 <= size <= self.size:
            raise ParameterError(f"a head of {size} entries, there are {self.size}")


def _split(width: int) -> int:
    """The largest power of two below `width`, which is 2 or more."""
    return 1 << ((width - 1).bit_length() - 1)
