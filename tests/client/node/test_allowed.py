"""When a device may train: what its owner writes, what its machine says, and what comes of it."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tacit.client import diary
from tacit.client.diary import TookPart
from tacit.client.node import allowed, settings
from tacit.client.node.allowed import OwnersRules
from tacit.client.node.machine import LinuxMachine, Power
from tacit.client.node.settings import FILE, Settings, Window, load
from tacit.client.vault import FileVault
from tacit.crypto.errors import ParameterError
from tacit.crypto.secagg import stages

MONDAY = 1_767_571_200  # 2026-01-05 00:00:00 UTC
HOUR = 3600


@pytest.fixture
def vault(tmp_path: Path) -> FileVault:
    return FileVault.create(tmp_path / "vault", bytes(32))


@pytest.fixture
def rules(vault: FileVault, tmp_path: Path) -> Callable[[str], OwnersRules]:
    def made(text: str) -> OwnersRules:
        (vault.folder / FILE).write_text(text)
        return OwnersRules(vault, LinuxMachine(tmp_path / "root"), time.gmtime)

    return made


def says(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")


def reason(rules: OwnersRules, now: float = MONDAY, kind: str = "train") -> str:
    refusal = rules(kind, now)
    return "" if refusal is None else refusal.reason


# The file


def test_the_file_that_the_docstring_shows_is_read(vault: FileVault) -> None:
    shown = (settings.__doc__ or "").split("asked.\n\n")[1]
    (vault.folder / FILE).write_text(shown)
    found = load(vault.folder)
    assert found.hook == "/usr/local/bin/may-train"
    assert found.max_rounds_per_day == 20
    assert found.schedule.windows == ("sat,sun 00:00-24:00", "mon-fri 20:00-06:00")
    assert (found.power.mains, found.power.battery_above) == (True, 40)
    assert found.network.metered == ("wwan*", "ppp*")
    assert (found.machine.max_load, found.machine.max_temperature) == (0.5, 75)
    assert found.connection == Settings().connection


def test_no_file_is_no_rule(vault: FileVault) -> None:
    assert load(vault.folder) == Settings()
    assert OwnersRules(vault)("train", MONDAY) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("hok = '/bin/true'", "unknown key hok; did you mean hook?"),
        ("[shedule]\n", "unknown key shedule; did you mean schedule?"),
        ("[power]\nmain = true", "unknown key power.main; did you mean mains?"),
        ("battery_above = 3", "unknown key battery_above; did you mean power.battery_above?"),
        ("[power]\nmains = 1", "power.mains = 1, expected true or false"),
        ("[power]\nbattery_above = 101", "power.battery_above = 101, expected 0 .. 100"),
        ("[power]\nbattery_above = nan", "power.battery_above = nan, expected 0 .. 100"),
        ("[power]\nbattery_above = true", "power.battery_above = True, expected a number"),
        ("power = 3", r"power = 3, expected a table: \[power\]"),
        ("hook = 'may-train'", "hook = 'may-train', expected a whole path"),
        ("max_rounds_per_day = -1", "max_rounds_per_day = -1, expected 0 or more"),
        ("max_rounds_per_day = 1.5", "max_rounds_per_day = 1.5, expected a whole number"),
        ("[schedule]\nwindows = '00:00-24:00'", "expected a list of texts"),
        ("[schedule]\nwindows = ['mon 25:00-26:00']", "hours go from 00:00 to 24:00"),
        ("[schedule]\nwindows = ['mon 20:60-22:00']", "hours go from 00:00 to 24:00"),
        ("[schedule]\nwindows = ['mon 24:00-06:00']", "hours go from 00:00 to 24:00"),
        ("[schedule]\nwindows = ['mon 06:00-06:00']", "a whole day is 00:00-24:00"),
        ("[schedule]\nwindows = ['mo 06:00-08:00']", "days are mon, tue"),
        ("[schedule]\nwindows = ['at night']", "expected such as 'mon-fri 20:00-06:00'"),
        ("[connection]\nfirst = 60\nlongest = 30", "connection.longest = 30, expected 60 .. 86400"),
        ("[connection]\nbandwidth = 1", "expected 0 or 1000 and more"),
        ("hook = ", "is no TOML"),
    ],
)
def test_what_cannot_be_meant_is_said(
    vault: FileVault, rules: Callable[[str], OwnersRules], text: str, said: str
) -> None:
    asked = rules(text)
    with pytest.raises(ParameterError, match=said) as raised:
        load(vault.folder)
    assert str(vault.folder / FILE) in str(raised.value)
    assert reason(asked) == "the device's node.toml is not valid"  # and nothing is allowed


def test_a_file_that_changes_is_read_again(
    vault: FileVault, rules: Callable[[str], OwnersRules]
) -> None:
    asked = rules("nonsense")
    assert reason(asked)
    (vault.folder / FILE).write_text("")
    assert not reason(asked)
    (vault.folder / FILE).write_text("[schedule]\nwindows = ['20:00-21:00']")
    assert reason(asked) == "outside of schedule.windows"
    (vault.folder / FILE).unlink()
    assert not reason(asked)


# Time


def by_hand(days: set[int], begin: int, end: int) -> set[int]:
    """Every minute of a window, one by one, from Monday's first."""
    length = (end - begin) % 1440 or 1440
    return {(day * 1440 + begin + step) % (7 * 1440) for day in days for step in range(length)}


@pytest.mark.parametrize(
    ("text", "days", "begin", "end"),
    [
        ("mon-fri 20:00-06:00", {0, 1, 2, 3, 4}, 1200, 360),
        ("fri-mon 00:00-24:00", {4, 5, 6, 0}, 0, 1440),
        ("sat,sun 08:30-17:15", {5, 6}, 510, 1035),
        ("sun, wed-thu 23:59-00:01", {6, 2, 3}, 1439, 1),
        ("22:00-24:00", set(range(7)), 1320, 1440),
        (" MON  00:00-00:01 ", {0}, 0, 1),
    ],
)
def test_windows(text: str, days: set[int], begin: int, end: int) -> None:
    window = Window.parse(text)
    held = {at for at in range(7 * 1440) if window.holds(*divmod(at, 1440))}
    assert held == by_hand(days, begin, end)


def test_the_wait_is_until_the_next_window(rules: Callable[[str], OwnersRules]) -> None:
    asked = rules("[schedule]\nwindows = ['mon-fri 20:00-06:00', 'sun 12:00-13:00']")
    for now, wait in (
        (MONDAY + 6 * HOUR, 14 * HOUR),
        (MONDAY + 19 * HOUR + 3590, 10),
        (MONDAY + 5 * 24 * HOUR + 6 * HOUR, 30 * HOUR),  # Saturday morning, to Sunday noon
    ):
        refusal = asked("train", now)
        assert refusal is not None
        assert refusal.again_in == wait
        assert asked("train", now + wait) is None
    assert asked("train", MONDAY + 5 * 24 * HOUR + 5 * HOUR) is None  # Friday's, on Saturday
    assert asked("train", MONDAY + 5 * HOUR) is not None  # Sunday has none that goes on


def test_the_legs_around_a_contribution_are_not_refused(
    rules: Callable[[str], OwnersRules],
) -> None:
    asked = rules("nonsense")
    for kind in (stages.ENROL, stages.KEY, stages.ATTEST, stages.REVEAL):
        assert asked(kind, MONDAY) is None
    for kind in ("train", "evaluate", "query", "train.other", "query.other"):
        assert asked(kind, MONDAY) is not None


# The machine

MAINS = {"AC/type": "Mains", "AC/online": "1"}
OFF = {"AC/type": "Mains", "AC/online": "0"}
BATTERY = {"BAT0/type": "Battery", "BAT0/capacity": "41", "BAT0/status": "Discharging"}
MOUSE = {"hid/type": "Battery", "hid/scope": "Device", "hid/capacity": "3", "hid/status": "Full"}


@pytest.mark.parametrize(
    ("supplies", "power"),
    [
        (None, None),
        ({}, Power(True, None)),
        (MOUSE, Power(True, None)),
        (MAINS | BATTERY, Power(True, 41)),
        (OFF | BATTERY | MOUSE, Power(False, 41)),
        (BATTERY, Power(False, 41)),
        (BATTERY | {"BAT0/status": "Charging"}, Power(True, 41)),
        (OFF | BATTERY | {"BAT1/type": "Battery", "BAT1/capacity": "7"}, Power(False, 7)),
        (OFF | {"BAT0/type": "Battery", "BAT0/capacity": "what"}, Power(False, None)),
        (OFF | {"usb/type": "USB", "usb/online": "1"} | BATTERY, Power(True, 41)),
    ],
)
def test_power(tmp_path: Path, supplies: dict[str, str] | None, power: Power | None) -> None:
    folder = tmp_path / "sys/class/power_supply"
    if supplies is not None:
        folder.mkdir(parents=True)
        for name, text in supplies.items():
            says(folder, name, text)
    assert LinuxMachine(tmp_path).power() == power


@pytest.mark.parametrize(
    ("rule", "supplies", "said"),
    [
        ("mains = true", MAINS | BATTERY, ""),
        ("mains = true", OFF | BATTERY, "not on mains (power.mains)"),
        ("battery_above = 40", OFF | BATTERY, ""),
        ("battery_above = 41", OFF | BATTERY, "the battery is low (power.battery_above)"),
        ("battery_above = 41", MAINS | BATTERY, ""),
        ("battery_above = 1", OFF | {"BAT0/type": "Battery"}, "the battery is low"),
        ("mains = true", None, "this machine does not say what power it is on (power)"),
    ],
)
def test_rules_of_power(
    rules: Callable[[str], OwnersRules],
    tmp_path: Path,
    rule: str,
    supplies: dict[str, str] | None,
    said: str,
) -> None:
    for name, text in (supplies or {}).items():
        says(tmp_path / "root/sys/class/power_supply", name, text)
    found = reason(rules(f"[power]\n{rule}"))
    assert found.startswith(said)
    assert bool(found) == bool(said)


HEAD = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT"
LAN = "eth0 00000000 0100A8C0 0003 0 0 100 00000000 0 0 0"
PHONE = "wwan0 00000000 0100A8C0 0003 0 0 700 00000000 0 0 0"
DOWN = "eth1 00000000 0100A8C0 0002 0 0 1 00000000 0 0 0"
LOCAL = "eth2 0000A8C0 00000000 0001 0 0 0 00FFFFFF 0 0 0"
ZERO = "0" * 32
SIX = f"{ZERO} 00 {ZERO} 00 {'1' * 32} 00000400 00000001 00000000 00000003 wlan0"
LOOP = f"{ZERO} 00 {ZERO} 00 {ZERO} ffffffff 00000001 00000000 00200200 lo"


@pytest.mark.parametrize(
    ("four", "six", "name"),
    [
        ([HEAD, PHONE, LAN, DOWN, LOCAL], [], "eth0"),
        ([HEAD, PHONE], [SIX], "wwan0"),
        ([HEAD, LOCAL], [LOOP, SIX], "wlan0"),
        ([HEAD, LOCAL, DOWN], [LOOP], None),
        ([], [], None),
    ],
)
def test_interface(tmp_path: Path, four: list[str], six: list[str], name: str | None) -> None:
    says(tmp_path, "proc/net/route", "\n".join(four))
    says(tmp_path, "proc/net/ipv6_route", "\n".join(six))
    assert LinuxMachine(tmp_path).interface() == name


@pytest.mark.parametrize(
    ("rule", "routes", "said"),
    [
        ("interfaces = ['eth*']", [HEAD, LAN], ""),
        ("interfaces = ['wlan*', 'en*']", [HEAD, LAN], "on another network (network.interfaces)"),
        ("metered = ['wwan*']", [HEAD, LAN], ""),
        ("metered = ['wwan*']", [HEAD, PHONE], "on a metered network (network.metered)"),
        ("interfaces = ['*']", [HEAD], "this machine does not say what network it is on (network)"),
    ],
)
def test_rules_of_the_network(
    rules: Callable[[str], OwnersRules], tmp_path: Path, rule: str, routes: list[str], said: str
) -> None:
    says(tmp_path / "root", "proc/net/route", "\n".join(routes))
    assert reason(rules(f"[network]\n{rule}")) == said


def test_rules_of_load_and_temperature(
    rules: Callable[[str], OwnersRules], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    root = tmp_path / "root"
    busy = rules("[machine]\nmax_load = 0.5")
    assert reason(busy) == "the machine is busy (machine.max_load)"  # it does not say
    says(root, "proc/loadavg", "2.00 1.00 0.50 1/100 1234")
    assert not reason(busy)
    says(root, "proc/loadavg", "2.04 1.00 0.50 1/100 1234")
    assert reason(busy)
    hot = rules("[machine]\nmax_temperature = 70")
    assert reason(hot) == "the machine is hot (machine.max_temperature)"
    says(root, "sys/class/thermal/thermal_zone0/temp", "70000")
    assert not reason(hot)
    says(root, "sys/class/thermal/thermal_zone1/temp", "70001")
    assert reason(hot)


# Rounds and the hook


def test_rounds_of_a_day(vault: FileVault, rules: Callable[[str], OwnersRules]) -> None:
    asked = rules("max_rounds_per_day = 2")
    for at, run, round_ in ((-1, 1, 1), (1, 1, 2), (2, 1, 2), (3, 1, 3)):
        assert not reason(asked, MONDAY + 4)
        for purpose in ("train", "evaluate"):
            diary.note(vault, TookPart(run, round_, purpose, "masks", 4, 0.0, 0.0), MONDAY + at)
    refusal = asked("train", MONDAY + 4)
    assert refusal is not None
    assert refusal.reason == "2 rounds today are enough (max_rounds_per_day)"
    assert refusal.again_in == 24 * HOUR - 4
    assert not reason(asked, MONDAY + 24 * HOUR)


def program(path: Path, text: str, mode: int = 0o755) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(mode)
    return path


@pytest.mark.parametrize(
    ("text", "mode", "said"),
    [
        ("exit 0", 0o755, ""),
        ("exit 3", 0o755, "the hook says no, with exit code 3 (hook)"),
        ('test "$1" = train && test $# = 1', 0o700, ""),
        ('test -z "$SECRET" && test "$PWD" = /', 0o755, ""),
        ("read line || exit 0; exit 1", 0o755, ""),
        ("kill -9 $$", 0o755, "the hook says no, with exit code -9 (hook)"),
        ("exit 0", 0o644, "the hook does not start: Permission denied (hook)"),
        ("exit 0", 0o775, "others than its owner may write to the hook: chmod go-w it (hook)"),
        ("exit 0", 0o757, "others than its owner may write to the hook: chmod go-w it (hook)"),
    ],
)
def test_what_a_hook_says(
    rules: Callable[[str], OwnersRules],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    mode: int,
    said: str,
) -> None:
    monkeypatch.setenv("SECRET", "a secret")
    hook = program(tmp_path / "hook; false", text, mode)
    assert reason(rules(f"hook = {str(hook)!r}")) == said


def test_a_hook_that_is_not_there(rules: Callable[[str], OwnersRules]) -> None:
    said = "the hook does not start: No such file or directory (hook)"
    assert reason(rules("hook = '/no/such/program'")) == said


def test_a_hook_that_hangs_is_ended_with_all_it_started(
    rules: Callable[[str], OwnersRules], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(allowed, "HOOK_SECONDS", 0.3)
    left = tmp_path / "child"
    hook = program(tmp_path / "hook", f"sleep 60 & echo $! > {left}; wait")
    assert reason(rules(f"hook = '{hook}'")) == "the hook did not answer in 0.3 s (hook)"
    child = int(left.read_text())
    end = time.monotonic() + 5
    while Path(f"/proc/{child}/status").exists():
        if "Z" in Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0]:
            break
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_hooks_answer_holds_for_a_while(
    rules: Callable[[str], OwnersRules], tmp_path: Path
) -> None:
    count = tmp_path / "count"
    hook = program(tmp_path / "hook", f"echo >> {count}")
    asked = rules(f"hook = '{hook}'")
    for seconds in (0, 1, 29, 30, 31, 0):  # the last: a clock that was set back
        assert not reason(asked, MONDAY + seconds)
    assert len(count.read_text()) == 3
