"""Who may order what on a server: roles, and the register of those who have one.

    DIR/operators   the register: names, roles, public keys; signed with audit.key, no secret in it
    DIR/keys/       keys that were made with the server: to be moved to whom they are for

A viewer has a token, of which the register keeps a SHA-256; everybody else an Ed25519 key, made
where he is. A key is registered once, under one role, and never again after it was withdrawn: or
what was signed with it before would be good anew.

A copy of the register from an earlier day brings back who was withdrawn since: `history` tells.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType

from tacit.app.deployment.places import Places
from tacit.client.files import SHARED_MODE, read_private, replace_file
from tacit.crypto import labels
from tacit.crypto.errors import Damaged, MalformedMessage, ParameterError
from tacit.crypto.identity import KEY_BYTES, SIGNATURE_BYTES, Identity, verified
from tacit.crypto.order import SERVER_BYTES, Act, check_name
from tacit.crypto.wire import Reader, Writer
from tacit.server.gate import keys as tokens

MAGIC = b"tacit operators 1\n"
MAX_OPERATORS = 4096  # withdrawn ones, too


class Role(StrEnum):
    """What an operator is for. The gate's roles without `client`, which a deployment has none of;
    not the gate's own class, since that is of an extra, and a server may be without it."""

    VIEWER = "viewer"  # sees the dashboard, by a token
    OPERATOR = "operator"  # orders runs
    RELEASER = "releaser"  # lets models out
    AUTHORITY = "authority"  # says who has a role


MAY: Mapping[Role, frozenset[Act]] = MappingProxyType(
    {
        Role.VIEWER: frozenset(),
        Role.OPERATOR: frozenset({Act.RUN, Act.RESUME, Act.STOP}),
        Role.RELEASER: frozenset({Act.RELEASE}),
        Role.AUTHORITY: frozenset({Act.GRANT, Act.WITHDRAW}),
    }
)


@dataclass(frozen=True, slots=True)
class Operator:
    """Somebody who has a role. `key` is public, or the SHA-256 of a viewer's token. A releaser who
    `needs_audit` lets out nothing but models whose signed audit holds."""

    name: str
    role: Role
    key: bytes
    needs_audit: bool = False
    is_withdrawn: bool = False

    def __post_init__(self) -> None:
        check_name(self.name)
        if len(self.key) != KEY_BYTES:
            raise ParameterError(f"a key of {len(self.key)} bytes, expected {KEY_BYTES}")
        if self.needs_audit and self.role is not Role.RELEASER:
            raise ParameterError(f"only a releaser can need an audit, not a {self.role}")


@dataclass(frozen=True, slots=True)
class Operators:
    """The register: a value, in the order in which they came. `server` names the server, for good:
    it is the public key that its log is signed with."""

    server: bytes
    known: tuple[Operator, ...] = ()

    def __iter__(self) -> Iterator[Operator]:
        """Those who have a role now."""
        return (each for each in self.known if not each.is_withdrawn)

    def named(self, name: str) -> Operator | None:
        return next((each for each in self if each.name == name), None)

    def of_key(self, key: bytes) -> Operator | None:
        """Whose public key it is; withdrawn ones are found, too. Never a viewer: a token's digest
        signs nothing."""
        found = (each for each in self.known if each.key == key and each.role is not Role.VIEWER)
        return next(found, None)

    def viewer(self, text: str) -> Operator | None:
        """Whose token this text is. All are compared, each in constant time."""
        token, found = tokens.parse(text.strip()), None
        for each in self:
            if token is not None and each.role is Role.VIEWER and tokens.opens(token, [each.key]):
                found = each
        return found

    def granted(self, operator: Operator) -> "Operators":
        """With one more. Raises ParameterError for a name that has a role, and a key that has or
        had one."""
        if self.named(operator.name) is not None:
            raise ParameterError(f"{operator.name} has a role already: withdraw that first")
        if any(each.key == operator.key for each in self.known):
            raise ParameterError("this key is, or was, registered: a role takes a new one")
        if len(self.known) == MAX_OPERATORS:
            raise ParameterError(f"a register has at most {MAX_OPERATORS} keys, withdrawn ones too")
        return replace(self, known=(*self.known, operator))

    def withdrawn(self, name: str) -> "Operators":
        """Without one. Raises ParameterError for a stranger, and for the last authority: nobody
        could grant anything after it."""
        gone = self.named(name)
        if gone is None:
            raise ParameterError(f"nobody called {name} has a role: tacit server roles lists them")
        if gone.role is Role.AUTHORITY and sum(each.role is Role.AUTHORITY for each in self) == 1:
            raise ParameterError(f"{name} is the last authority: grant the role to another first")
        marked = replace(gone, is_withdrawn=True)
        return replace(self, known=tuple(marked if each is gone else each for each in self.known))

    def encode(self, keeper: Identity) -> bytes:
        """The file, signed by the keeper of the server's log."""
        writer = Writer().fixed(MAGIC, len(MAGIC)).fixed(self.server, SERVER_BYTES)
        writer.u32(len(self.known))
        for each in self.known:
            writer.text(each.name).text(each.role).fixed(each.key, KEY_BYTES)
            writer.u8(each.needs_audit).u8(each.is_withdrawn)
        body = writer.data()
        return body + keeper.sign(labels.OPERATORS, body)

    @classmethod
    def decode(cls, data: bytes) -> "Operators":
        """Raises Damaged for anything that `encode` did not write, with the server's own key."""
        body, signature = data[:-SIGNATURE_BYTES], data[-SIGNATURE_BYTES:]
        reader = Reader(body, sender=0, stage="operators")
        try:
            if reader.fixed(len(MAGIC)) != MAGIC:
                raise reader.bad("it does not begin like one")
            server = reader.fixed(SERVER_BYTES)
            if not verified(server, labels.OPERATORS, body, signature):
                raise reader.bad("its signature does not fit")
            listed = tuple(_read(reader) for _ in range(reader.count(MAX_OPERATORS)))
            reader.end()
        except MalformedMessage as bad:
            raise Damaged(f"the register of operators was altered: {bad.reason}") from None
        except ValueError as bad:
            raise Damaged(f"the register of operators cannot be read: {bad}") from None
        return cls(server, listed)


def may(operator: Operator, act: Act) -> bool:
    return not operator.is_withdrawn and act in MAY[operator.role]


def role_for(act: Act) -> Role:
    """The role that an act takes."""
    return next(role for role, acts in MAY.items() if act in acts)


def load(places: Places) -> Operators:
    """Who may do what here. Raises ParameterError where nobody was ever registered, Damaged for a
    register that is not what the server wrote."""
    try:
        data = places.operators.read_bytes()
    except FileNotFoundError:
        raise ParameterError(
            f"{places.folder} is no server's folder, or was never up: tacit server init, tacit up"
        ) from None
    return Operators.decode(data)


def save(places: Places, operators: Operators, keeper: Identity) -> None:
    """Durably, in one step. Raises ParameterError for another keeper than the server's."""
    if keeper.public != operators.server:
        raise ParameterError(f"{places.folder} has another audit.key than its register says")
    replace_file(places.operators, operators.encode(keeper), SHARED_MODE)


def read_key(path: Path) -> Identity:
    """An operator's own key. Raises ParameterError for a file that is none, or that others than its
    owner may use."""
    try:
        return Identity(read_private(path))
    except ParameterError as bad:
        raise ParameterError(f"{path} is no operator's key: {bad}") from None


def _read(reader: Reader) -> Operator:
    name, role, key = reader.text(), Role(reader.text()), reader.fixed(KEY_BYTES)
    needs_audit, is_withdrawn = reader.u8(), reader.u8()
    if max(needs_audit, is_withdrawn) > 1:
        raise reader.bad("a yes or no that is neither")
    return Operator(name, role, key, bool(needs_audit), bool(is_withdrawn))
