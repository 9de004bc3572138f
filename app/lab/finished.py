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
USUAL = ("linear-readout", "label-counts", "inverting-gradients")
MOST = 64  # inputs behind an update, beyond which optimisation takes long for nothing


def fitting(folder: RunFolder) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The usual attacks that are for this run; and of the others, why they are not."""
    ground, fit, unfit = _ground(folder), [], []
    inputs = max((round(each.weight) for each in _seen(folder)), default=0)
    for text in USUAL:
        try:
            Named.parse(text).make(ground)
            if text == USUAL[-1] and inputs > MOST:
                raise ParameterError(
                    f"{inputs:,} inputs in one update are too many for it; --attack {text} tries"
                )
        except ParameterError as wrong:
            unfit.append(f"{text}: {wrong}")
        else:
            fit.append(text)
    return tuple(fit), tuple(unfit)


def attack_run(folder: RunFolder, attacks: tuple[str, ...]) -> Iterator[Trial]:
    """Each of the attacks on each of the kept updates, or the first VICTIMS where they are single.

    Raises ParameterError, before any work, if nothing was kept, or for an attack that is not for
    this run: that does not fit its model or data, or takes a server that sends what it likes.
    """
    settings, seen, ground = folder.settings, _seen(folder), _ground(folder)
    held = material(settings.data, settings.run.seed)
    made = {text: Named.parse(text).make(ground) for text in attacks}
    for text, attack in made.items():
        if attack.conduct is Conduct.MALICIOUS:
            raise ParameterError(f"{text} takes a malicious server, and this run had none")
    private = settings.private
    ledger = None if private is None else PrivateSums(private, folder.storage)
    for text, attack in made.items():
        for number, each in enumerate(seen):
            scene = Scene(each.clients, settings, held, (each,), ledger=ledger)
            yield scored(_cell(text, folder, each), number, attack, scene).trial


def _seen(folder: RunFolder) -> tuple[Seen, ...]:
    """What is attacked of what was kept."""
    seen = tuple(folder.seen())
    if not seen:
        raise ParameterError(
            f"{folder.path} has no updates to attack: run.keep_seen says of how many rounds to "
            "keep them, and a central run keeps none, as they have no noise"
        )
    return seen[:VICTIMS] if seen[0].clients == 1 else seen


def _ground(folder: RunFolder) -> Ground:
    settings = folder.settings
    return Ground.of(settings, material(settings.data, settings.run.seed))


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
