"""Every error Tacit raises on purpose. Nothing here ever carries key material.

TacitError
├── ParameterError        our own caller asked for something unsafe or impossible
├── ProtocolError         a peer broke the protocol: who, at which stage
│   └── MalformedMessage  ... its bytes do not decode
├── Damaged               kept bytes are not what was written
├── PolicyRefusal         the device's owner does not allow what was asked
├── TooFewClients         the sum cannot finish and still be private
├── BudgetExceeded        the release would cost more privacy than is left
└── BrokenArithmetic      this machine computes what cannot be right
"""


class TacitError(Exception):
    """Base of all errors raised by Tacit."""


class ParameterError(TacitError, ValueError):
    """A parameter or an input is unsafe or impossible."""


class ProtocolError(TacitError):
    """A peer broke the protocol. `sender` is a device id, 0 for the server."""

    def __init__(self, reason: str, *, sender: int, stage: str) -> None:
        super().__init__(f"{stage}: {'server' if sender == 0 else f'device {sender}'}: {reason}")
        self.reason = reason
        self.sender = sender
        self.stage = stage


class MalformedMessage(ProtocolError):
    """Bytes that are not a message of this protocol."""


class Damaged(TacitError):
    """Bytes that were kept are not what was written: altered, cut short, or not for this reader."""


class PolicyRefusal(TacitError):
    """The device's owner does not allow this request."""


class TooFewClients(TacitError):
    """Fewer devices than the sum needs to be private or to be opened."""


class BudgetExceeded(TacitError):
    """The release would cost more privacy than is left."""


class BrokenArithmetic(TacitError, ArithmeticError):
    """This machine, or a library on it, computed what cannot be right. Nobody's message is to
    blame, and nothing else that it computes is to be trusted: a device sends nothing, a server
    ends its run."""
