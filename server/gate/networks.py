"""Where may be asked from: lists of networks and countries in a file that operators edit.

    # one rule a line
    allow 10.0.0.0/8
    deny 10.9.0.0/16
    deny country XX

Deny always wins. Where there is an `allow` of any kind, an address has to be in one. This refuses
requests and judges nobody: addresses are shared and borrowed, so no key's state ever follows from
one. What an address says is what the server in front says it is.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import TypeAlias

from tacit.crypto.errors import ParameterError

Network: TypeAlias = IPv4Network | IPv6Network
Address: TypeAlias = IPv4Address | IPv6Address
Country: TypeAlias = Callable[[str], str | None]  # of an address: two letters, None if unknown


@lru_cache(maxsize=4096)
def address_of(text: str) -> Address | None:
    """None for a text that is no address. An IPv4 address in IPv6's clothes is the IPv4 one: else
    it would slip through every list."""
    try:
        found = ip_address(text)
    except ValueError:
        return None
    if isinstance(found, IPv6Address):
        return found.ipv4_mapped or found
    return found


def networks_of(texts: Iterable[str]) -> tuple[Network, ...]:
    """Raises ParameterError for what is no network in CIDR form."""
    return tuple(_network(text) for text in texts)


def is_in(address: str, networks: Iterable[Network]) -> bool:
    """Whether an address is in one of them; what is no address is in none."""
    found = address_of(address)
    return found is not None and any(found in each for each in networks)


@dataclass(frozen=True, slots=True)
class Rules:
    """What a file says."""

    allowed: tuple[Network, ...] = ()
    denied: tuple[Network, ...] = ()
    allowed_countries: frozenset[str] = frozenset()
    denied_countries: frozenset[str] = frozenset()

    @classmethod
    def parse(cls, text: str) -> "Rules":
        """Raises ParameterError, with the line, for one that is no rule."""
        networks: dict[str, list[Network]] = {"allow": [], "deny": []}
        countries: dict[str, list[str]] = {"allow": [], "deny": []}
        for number, line in enumerate(text.splitlines(), 1):
            match line.partition("#")[0].split():
                case []:
                    pass
                case ["allow" | "deny" as verb, "country", code] if _is_code(code):
                    countries[verb].append(code)
                case ["allow" | "deny" as verb, network]:
                    try:
                        networks[verb].append(_network(network))
                    except ParameterError as bad:
                        raise ParameterError(f"line {number}: {bad}") from None
                case _:
                    raise ParameterError(
                        f"line {number} is no rule: allow NETWORK, deny NETWORK, "
                        "allow country XX or deny country XX"
                    )
        return cls(
            tuple(networks["allow"]),
            tuple(networks["deny"]),
            frozenset(countries["allow"]),
            frozenset(countries["deny"]),
        )

    @property
    def needs_country(self) -> bool:
        return bool(self.allowed_countries or self.denied_countries)

    def allow(self, address: str, country: Country | None) -> bool:
        """A country that is not known is none of the allowed ones, and none of the denied ones."""
        found = address_of(address)
        where = country(str(found)) if self.needs_country and country and found else None
        if is_in(address, self.denied) or where in self.denied_countries:
            return False
        if not (self.allowed or self.allowed_countries):
            return found is not None or not (self.denied or self.denied_countries)
        return is_in(address, self.allowed) or where in self.allowed_countries


class RuleFile:
    """The rules in a file, read again when it changes.

    A file that turns bad, or goes away, changes nothing: the rules that were last good stay, and
    `fault` says why. Raises ParameterError for one that is bad from the start, and for rules about
    countries where nobody tells countries.
    """

    def __init__(self, path: Path, country: Country | None = None) -> None:
        self._path, self._country = path, country
        self.fault: str | None = None
        self._seen = self._stamp()
        self._rules = self._read()

    def allow(self, address: str) -> bool:
        stamp = self._stamp()
        if stamp != self._seen:
            self._seen = stamp
            try:
                self._rules, self.fault = self._read(), None
            except ParameterError as bad:
                self.fault = f"{bad}; the rules of before stay"
        return self._rules.allow(address, self._country)

    def _stamp(self) -> tuple[int, ...] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino

    def _read(self) -> Rules:
        try:
            rules = Rules.parse(self._path.read_text("utf-8"))
        except (OSError, UnicodeDecodeError) as bad:
            raise ParameterError(f"{self._path} cannot be read: {bad}") from None
        except ParameterError as bad:
            raise ParameterError(f"{self._path}: {bad}") from None
        if rules.needs_country and self._country is None:
            raise ParameterError(f"{self._path} names countries, and nothing here tells them")
        return rules


def _network(text: str) -> Network:
    try:
        return ip_network(text)
    except ValueError as bad:
        raise ParameterError(f"no network in CIDR form: {bad}") from None


def _is_code(text: str) -> bool:
    return len(text) == 2 and text.isascii() and text.isupper()
