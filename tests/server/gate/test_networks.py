"""Deny always wins, an address in other clothes is the same, and a bad file changes nothing."""

import os
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.crypto.errors import ParameterError
from tacit.server.gate.networks import RuleFile, Rules, is_in, networks_of

ADDRESSES = st.ip_addresses(v=4).map(str)


def test_no_rules_allow_all() -> None:
    for address in ("1.2.3.4", "::1", "testclient", ""):
        assert Rules.parse("").allow(address, None)
        assert Rules.parse("# nothing\n\n").allow(address, None)


@given(ADDRESSES)
def test_deny_wins(address: str) -> None:
    both = Rules.parse(f"allow {address}/32\ndeny {address}/32\nallow 0.0.0.0/0")
    assert not both.allow(address, None)
    assert Rules.parse(f"allow {address}/32").allow(address, None)


@given(ADDRESSES, ADDRESSES)
def test_allow_lets_nobody_else_in(address: str, other: str) -> None:
    assert Rules.parse(f"allow {address}/32").allow(other, None) is (address == other)
    assert Rules.parse(f"deny {address}/32").allow(other, None) is (address != other)


@given(ADDRESSES)
def test_clothes_of_ipv6_hide_nothing(address: str) -> None:
    number = int(IPv4Address(address))
    for dressed in (f"::ffff:{address}", f"::ffff:{number >> 16:x}:{number & 0xFFFF:x}"):
        assert not Rules.parse(f"deny {address}/32").allow(dressed, None)
        assert Rules.parse(f"allow {address}/32").allow(dressed, None)
        assert is_in(dressed, networks_of([f"{address}/32"]))


@pytest.mark.parametrize("address", ["", "testclient", "10.0.0.1, 1.1.1.1", "010.0.0.1", "1.2.3"])
def test_what_is_no_address_is_nowhere(address: str) -> None:
    assert not Rules.parse("allow 0.0.0.0/0\nallow ::/0").allow(address, None)
    assert not Rules.parse("deny 10.0.0.0/8").allow(address, None)


def test_countries() -> None:
    where = {"1.1.1.1": "AA", "2.2.2.2": "BB", "3.3.3.3": None}.get
    deny = Rules.parse("deny country AA")
    assert [deny.allow(f"{n}.{n}.{n}.{n}", where) for n in (1, 2, 3)] == [False, True, True]
    allow = Rules.parse("allow country AA\nallow 3.0.0.0/8\ndeny 1.1.1.0/24")
    assert [allow.allow(f"{n}.{n}.{n}.{n}", where) for n in (1, 2, 3)] == [False, False, True]
    assert allow.allow("1.1.1.1", where) is False  # the network's deny wins over the country


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("allow", "line 1 is no rule"),
        ("permit 10.0.0.0/8", "line 1 is no rule"),
        ("allow 10.0.0.0/8\ndeny 10.0.0.1/8", "line 2: .*host bits"),
        ("deny country usa", "line 1 is no rule"),
        ("deny 10.0.0.0/8 ::/0", "line 1 is no rule"),
        ("allow somewhere", "line 1: no network"),
    ],
)
def test_bad_rules_say_where(text: str, why: str) -> None:
    with pytest.raises(ParameterError, match=why):
        Rules.parse(text)


def _put(path: Path, text: str) -> None:
    """As editors do: another file under the same name."""
    fresh = path.with_name("fresh")
    fresh.write_text(text)
    os.replace(fresh, path)  # noqa: PTH105


def test_a_file_is_read_again_and_a_bad_one_is_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "networks"
    path.write_text("deny 10.0.0.0/8")
    rules = RuleFile(path)
    assert not rules.allow("10.0.0.1")
    _put(path, "deny 11.0.0.0/8")
    assert rules.allow("10.0.0.1")
    _put(path, "deny everything")
    assert not rules.allow("11.0.0.1")
    assert rules.fault
    assert "rules of before stay" in rules.fault
    path.unlink()
    assert not rules.allow("11.0.0.1")
    assert rules.fault
    _put(path, "deny country XX")  # and nobody tells countries here
    assert not rules.allow("11.0.0.1")
    _put(path, "deny 12.0.0.0/8")
    assert rules.allow("11.0.0.1")
    assert rules.fault is None


def test_a_file_that_is_bad_from_the_start(tmp_path: Path) -> None:
    path = tmp_path / "networks"
    with pytest.raises(ParameterError, match="cannot be read"):
        RuleFile(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ParameterError, match="cannot be read"):
        RuleFile(path)
    path.write_text("deny country XX")
    with pytest.raises(ParameterError, match="names countries"):
        RuleFile(path)
    assert RuleFile(path, lambda address: "YY").allow("10.0.0.1")
