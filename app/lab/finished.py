"""Attacks on a federation that has ended: on what its folder says the server saw."""

from collections.abc import Iterator
from math import ceil

from tacit.app.folder import RunFolder
from tacit.app.lab.attacks import Ground, Named
from tacit.app.lab.attempt import scored
from tacit.app.lab.federation import Scene
from tacit.app.material import material
from tacit.crypto.errors import ParameterError
from tacit.server.inbox import Seen
from tacit.server.private_sums import PrivateSums
from tacit.simulations.attacks.base import Conduct
from tacit.simulations.trial import Cell, Trial

VICTIMS = 3  # single updates that are attacked, where a run has them


def attack_run(folder: RunFolder, attacks: tuple[str, ...]) -> Iterator[Trial]:
    """Each of the attacks on each of the kept updates, or the first VICTIMS where they are single.

    Raises ParameterError, before any work, if nothing was kept, or for an attack that is not for
    this run: that does not fit its model or data, or takes a server that sends what it likes.
    """
    settings = folder.settings
    held = material(settings.data, settings.run.seed)
    seen = tuple(folder.seen())
    if not seen:
        raise ParameterError(
            f"{folder.path} has no updates to attack: run.keep_seen says of how many rounds to "
            "keep them, and a central run keeps none, as they have no noise"
        )
    ground = Ground.of(settings, held)
    made = {text: Named.parse(text).make(ground) for text in attacks}
    for text, attack in made.items():
        if attack.conduct is Conduct.MALICIOUS:
            raise ParameterError(f"{text} takes a malicious server, and this run had none")
    private = settings.private
    ledger = None if private is None else PrivateSums(private, folder.storage)
    for text, attack in made.items():
        for number, each in enumerate(_attacked(seen)):
            scene = Scene(each.clients, settings, held, (each,), ledger=ledger)
            yield scored(_cell(text, folder, each), number, attack, scene).trial


def _attacked(seen: tuple[Seen, ...]) -> tuple[Seen, ...]:
    return seen[:VICTIMS] if seen[0].clients == 1 else seen


def _cell(attack: str, folder: RunFolder, seen: Seen) -> Cell:
    """What was tried, in the words of a matrix."""
    settings = folder.settings
    mode = settings.privacy.mode
    defence = seen.protocol if mode == "none" else f"{mode} under {seen.protocol}"
    examples = max(1, round(seen.weight / seen.clients))
    train = settings.train
    batches = ceil(examples / train.batch_size) if train.batch_size else 1
    return Cell(
        attack,
        defence,
        settings.model.name,
        settings.data.name,
        seen.clients,
        examples,
        train.epochs * batches,
        train.learning_rate,
        settings.run.rounds,
    )
