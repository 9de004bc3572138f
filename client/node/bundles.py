"""Which bundles a device runs: its owner says so, by their SHA-256, and no server can.

Without a word of the owner's that is one, the bundle of the Tacit that is installed: it holds no
code, so whatever a run then does is done by what the owner has installed. A bundle with code does
what it likes, as the device's own user; who allows one has read it.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass

from tacit.client.vault import Vault
from tacit.crypto.errors import ParameterError

_SLOT = "bundles"
_DIGITS = 64


@dataclass(frozen=True, slots=True)
class Bundles:
    """Hashes in lower-case hexadecimal digits. `own` is whether this Tacit's is among them, also
    when it is another Tacit after an update."""

    own: bool = True
    others: frozenset[str] = frozenset()

    def allow(self, bundle: str, own: str) -> bool:
        """Whether a run may bring this bundle, where `own` is the one of the installed Tacit."""
        return bundle in self.others or (self.own and bundle == own)

    def all(self, own: str) -> list[str]:
        return [*([own] if self.own else []), *sorted(self.others - {own})]


def load(vault: Vault) -> Bundles:
    """Raises ParameterError if what the owner said cannot be read: then nothing is allowed."""
    if (data := vault.read(_SLOT)) is None:
        return Bundles()
    try:
        said = json.loads(data)
        return Bundles(bool(said["own"]), frozenset(map(parse, said["others"])))
    except (KeyError, TypeError, ValueError) as bad:
        raise ParameterError(f"the list of allowed bundles cannot be read: {bad}") from None


def change(vault: Vault, own: str, add: Iterable[str] = (), remove: Iterable[str] = ()) -> Bundles:
    """Allow some, and no longer others. Raises ParameterError, and nothing has changed, for one to
    be removed that is not allowed."""
    with vault.alone():
        before, more, less = load(vault), frozenset(add), frozenset(remove)
        if unknown := [each for each in less if not before.allow(each, own)]:
            raise ParameterError(f"{unknown[0]} is not allowed anyway")
        after = Bundles(
            own=(before.own or own in more) and own not in less,
            others=(before.others | (more - {own})) - less,
        )
        said = {"own": after.own, "others": sorted(after.others)}
        vault.write(_SLOT, json.dumps(said).encode())
        return after


def parse(text: str) -> str:
    """A hash, as somebody wrote it. Raises ParameterError for what is none."""
    plain = text.strip().lower()
    if len(plain) != _DIGITS or set(plain) - set("0123456789abcdef"):
        raise ParameterError(f"{text!r} is no SHA-256: expected {_DIGITS} hexadecimal digits")
    return plain
