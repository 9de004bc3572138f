"""A federation killed at every place where its server makes something durable, and gone on with.

What a killed process leaves is the disk as it is. So one run that is left alone is enough: before
each call that writes through, renames or removes, its folder is copied, and each copy is gone on
with. Devices are other machines: what they keep in their vaults is copied as it is then, and none
of their calls is a place. `real` kills are for one thing more: that the lock ends with the process.
"""

import json
import os
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, Message

from tacit.app import simulation
from tacit.app.client import register
from tacit.app.config import Settings
from tacit.app.folder import RunFolder, is_run
from tacit.app.simulation import simulate
from tacit.app.slots import Slots
from tacit.client.device import Device, simulated_device
from tacit.client.files import PRIVATE_MODE
from tacit.client.policy import Policy
from tacit.client.vault import FileVault
from tacit.crypto.secagg import client as secagg
from tacit.crypto.secagg.session import Session
from tacit.server import ahead, auditlog
from tacit.simulations.oracle import ObservedClientApp, Oracle

NOTES, INTENDED = "notes", "intended"
_at_devices = 0  # how deep in calls that are not the server's


class Watched(ObservedClientApp):
    """Devices with vaults on disk, as deployed ones have."""

    def __call__(self, message: Message, context: Context) -> Message:
        global _at_devices
        _at_devices += 1
        try:
            return super().__call__(message, context)
        finally:
            _at_devices -= 1


@dataclass(frozen=True)
class World:
    """All that is on disks: the server's run, the devices' vaults, and what devices revealed."""

    root: Path
    settings: Settings

    @property
    def run(self) -> Path:
        return self.root / "run"

    def device(self, context: Context) -> Device:
        known = simulated_device(context)
        place = self.root / "vaults" / str(known.number)
        vault = FileVault.open(place) if place.is_dir() else FileVault.create(place, os.urandom(32))
        return Device(known.number, known.identity, known.authority, vault)

    def start(self) -> None:
        """Run to the end from wherever it is, as `tacit simulate`, with --resume or without."""
        place = self.run
        is_there = is_run(place)
        folder = RunFolder.open(place) if is_there else RunFolder.create(place, self.settings)
        resume = folder.resume() if is_there else None
        with folder:
            simulate(self.settings, folder=folder, resume=resume)

    def copy(self, to: Path) -> "World":
        shutil.copytree(self.root, to)
        return World(to, self.settings)

    def digest(self) -> str:
        """Of all that is whole on the server's disk: what is not is removed by whoever goes on."""
        parts = [
            (str(each.relative_to(self.root)), sha256(each.read_bytes()).hexdigest())
            for each in sorted(self.run.rglob("*"))
            if each.is_file() and not each.name.endswith(".new")
        ]
        return sha256(json.dumps(parts).encode()).hexdigest()

    @property
    def model(self) -> bytes:
        return (self.run / "model.safetensors").read_bytes()

    def events(self, kind: str) -> list[dict[str, Any]]:
        return [each for each in RunFolder.open(self.run).events() if each["event"] == kind]

    def reveals(self, *, intended: bool = True) -> dict[tuple[int, str], dict[int, set[str]]]:
        """By round and purpose: the sessions that each device helped to open; with `intended`, also
        those that it reported in and that a killed server might have opened."""
        found: dict[tuple[int, str], dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
        path, killed = self.root / NOTES, self.root / INTENDED
        counted = set(killed.read_text().split()) if intended and killed.exists() else set()
        for line in path.read_text().splitlines() if path.exists() else ():
            did, round, purpose, device, session = line.split()
            if did == "reveal" or session in counted:
                found[int(round), purpose][int(device)].add(session)
        return found

    def note_intended(self) -> None:
        """What a killed server may have opened already: its devices are not to be asked again."""
        slots = Slots(self.run / "ahead")
        found = [
            ahead._unpacked(slots.read(each) or b"")
            for each in slots.slots()
            if "places" not in each
        ]
        (self.root / INTENDED).write_text("\n".join(index["session"] for index, _ in found))

    def lost(self, purpose: str) -> list[int]:
        """Rounds of which a sum was lost."""
        said = self.events("SumFailed")
        return [each["round"] for each in said if each["purpose"] == purpose]

    def check(self, *, sums: int = 1) -> None:
        """Nothing was given twice, nothing is left, and the log says all of it; a round is of so
        many `sums`."""
        folder = RunFolder.open(self.run)
        assert folder.status() == "finished"
        for (round, purpose), by_device in self.reveals().items():
            assert all(len(each) == 1 for each in by_device.values()), (round, purpose)
            opened = set[str]().union(*by_device.values())
            assert len(opened) <= (sums if purpose == "TRAIN" else 1), (round, purpose)
        assert auditlog.verify(self.run / "audit.log").unfinished == 0
        rounds = list(range(1, self.settings.run.rounds + 1))
        assert [each["round"] for each in folder.rounds()] == rounds
        assert [each["round"] for each in self.events("RoundStarted")] == rounds
        left = {each.name for each in self.run.rglob("*")}
        assert not {"ahead", "checkpoint.before.npz"} & left
        assert not [name for name in left if name.endswith(".new")]


@dataclass
class Places:
    """Calls of the server that make something durable; `reached` is told before each."""

    reached: Callable[[], None]
    count: int = 0
    _busy: bool = field(default=False, repr=False)

    def wrap(self, call: Callable[..., Any], *, is_skipped: bool = False) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if not _at_devices and not self._busy:
                self._busy = True
                try:
                    self.count += 1
                    self.reached()
                finally:
                    self._busy = False
            return None if is_skipped else call(*args, **kwargs)

        return wrapped


@contextmanager
def watched(world: World, reached: Callable[[], None] = lambda: None) -> Iterator[Places]:
    """Devices note what they reveal, and `reached` is told of every place of the server's."""
    places = Places(reached)

    def load(settings: Settings, oracle: Oracle, _: Path | None) -> Callable[[], Watched]:
        policy: Policy = settings.policy.policy(plain=False)
        return lambda: register(Watched(oracle, policy, world.device))  # type: ignore[return-value]

    def note(did: str, session: Session, device: int) -> None:
        line = f"{did} {session.round} {session.purpose.name} {device} {session.id.hex()}\n"
        handle = os.open(world.root / NOTES, os.O_WRONLY | os.O_APPEND | os.O_CREAT, PRIVATE_MODE)
        os.write(handle, line.encode())
        os.close(handle)

    def report(real: Callable[..., Any], state: secagg.Enrolled, *args: Any) -> Any:
        answer = real(state, *args)
        note("report", args[1], state.device)
        return answer

    def reveal(real: Callable[..., Any], state: secagg.Attested, *args: Any) -> Any:
        answer = real(state, *args)
        note("reveal", state.session, state.device)
        return answer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulation, "_loader", load)
        patch.setattr(secagg, "report", partial(report, secagg.report))
        patch.setattr(secagg, "reveal", partial(reveal, secagg.reveal))
        # This machine goes on, and waiting for its disk is slow.
        patch.setattr(os, "fsync", places.wrap(os.fsync, is_skipped=True))
        for name in ("replace", "unlink", "rmdir"):
            patch.setattr(os, name, places.wrap(getattr(os, name)))
        yield places


def undisturbed(root: Path, settings: Settings) -> World:
    """A run that nothing happened to."""
    root.mkdir()
    world = World(root, settings)
    with watched(world):
        world.start()
    return world


def models_without(root: Path, settings: Settings) -> dict[int, bytes]:
    """The model that comes of a run in which a round has no sum, for each round; 0 is of none."""
    everyone = f"drop report 0-{settings.data.devices - 1}"
    lost = range(settings.run.rounds + 1)
    changed = [[f'faults=["{everyone} @{each}"]'] if each else [] for each in lost]
    return {
        each: undisturbed(root / f"without-{each}", settings.changed(changed[each])).model
        for each in lost
    }


def killed_everywhere(root: Path, settings: Settings) -> Iterator[World]:
    """The run as it is killed at each of its places, once gone on with to its end. Places between
    which nothing changed but what is not whole are one."""
    root.mkdir()
    world, seen, copies = World(root / "world", settings), set[str](), list[World]()
    world.root.mkdir()

    def reached() -> None:
        digest = world.digest()
        if digest not in seen and (world.run / "config.toml").exists():
            seen.add(digest)
            copies.append(world.copy(root / str(len(copies))))

    with watched(world, reached):
        world.start()
    for copy in copies:
        if RunFolder.open(copy.run).status() != "finished":
            copy.note_intended()
            with watched(copy):
                copy.start()
        yield copy
        shutil.rmtree(copy.root)
