"""Signed heads of an audit log: what its keeper cannot take back.

A signature does not keep the keeper honest by itself: whoever has the key can sign two heads of one
size, or a tree that forgot an entry. But then there are two heads that contradict each other, and
whoever kept one can prove it. So heads are for others to keep: devices, an auditor, a journal.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from tacit.crypto import labels
from tacit.crypto.errors import MalformedMessage, ParameterError
from tacit.crypto.identity import SIGNATURE_BYTES, Identity, verified
from tacit.crypto.merkle import HASH_BYTES, Head
from tacit.crypto.wire import Reader, Writer

LOG_BYTES = 16  # of a log's name
SIGNED_HEAD_BYTES = LOG_BYTES + 8 + HASH_BYTES + SIGNATURE_BYTES


@dataclass(frozen=True, slots=True)
class SignedHead:
    """A head, signed by the log's keeper. `log` are 16 random bytes that name the log: one keeper
    may keep several, and a head of one says nothing of another."""

    log: bytes
    head: Head
    signature: bytes

    @classmethod
    def signed(cls, keeper: Identity, log: bytes, head: Head) -> "SignedHead":
        """Raises ParameterError unless the log's name is 16 bytes."""
        return cls(log, head, keeper.sign(labels.LOG_HEAD, _body(log, head)))

    def is_by(self, keeper: bytes) -> bool:
        """Whether the holder of the public key `keeper` signed this head."""
        return verified(keeper, labels.LOG_HEAD, _body(self.log, self.head), self.signature)

    def extends(self, older: "SignedHead", proof: Iterable[bytes]) -> bool:
        """Whether `proof` shows that this log, as it is now, begins as it was at `older`.

        For two heads of one log and one size the proof is empty, and False means a fork.
        """
        return self.log == older.log and self.head.extends(older.head, proof)

    def encode(self) -> bytes:
        """120 bytes."""
        return _body(self.log, self.head) + self.signature

    @classmethod
    def decode(cls, data: bytes) -> "SignedHead":
        """Raises MalformedMessage. Says nothing about the signature: see `is_by`."""
        reader = Reader(data, sender=0, stage="log")
        log, size, root = reader.fixed(LOG_BYTES), reader.u64(), reader.fixed(HASH_BYTES)
        signature = reader.fixed(SIGNATURE_BYTES)
        reader.end()
        try:
            return cls(log, Head(size, root), signature)
        except ParameterError as wrong:
            raise MalformedMessage(str(wrong), sender=0, stage="log") from None


def _body(log: bytes, head: Head) -> bytes:
    return Writer().fixed(log, LOG_BYTES).u64(head.size).fixed(head.root, HASH_BYTES).data()
