"""Attacks on a federation that has ended: on what its folder says the server saw."""

from collections.abc import Iterator
from math import ceil

from tacit.app.folder import RunFolder
from tacit.app.lab.attacks import Ground, Named
from tacit.app.lab.attempt import scored
from tacit.app.lab.federation import Scene
from tacit.app.material import material
from tacit.crypto.errors import ParameterError
from tacit.server.private_sums import PrivateSums
from tacit.simulations.attacks.base import Attack, Conduct, Target
from tacit.simulations.engine.device import FIRST_NODE_ID
from tacit.simulations.trial import Cell, Trial

VICTIMS = 3  # single updates that are attacked, where a run has them
USUAL = ("linear-readout", "label-counts", "inverting-gradients")
MOST = 64  # inputs behind an update, beyond which optimisation takes long for nothing


def fitting(folder: RunFolder) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The usual attacks that are for this run; and of the others, why they are not."""
    ground, fit, unfit = _ground(folder), [], []
    inputs = max(map(_inputs, _scenes(folder)))
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


def attack_run(folder: RunFolder, attacks: tuple[str, ...]) -> tuple[int, Iterator[Trial]]:
    """Each of the attacks on each of the kept updates, or the first VICTIMS where they are single:
    how many trials that is, and the trials as they end.

    Raises ParameterError at once if nothing was kept, or for an attack that is not for this run:
    that does not fit its model or data, takes a server that sends what it likes, or guesses at what
    was not kept.
    """
    scenes, ground = _scenes(folder), _ground(folder)
    made = {text: _made(text, ground) for text in attacks}
    for text, attack in made.items():
        if attack.conduct is Conduct.MALICIOUS:
            raise ParameterError(f"{text} takes a malicious server, and this run had none")
        if attack.target is Target.UPDATES:
            raise ParameterError(f"{text} guesses at updates, and no folder keeps the devices' own")
    trials = (
        scored(_cell(text, scene), number, attack, scene).trial
        for text, attack in made.items()
        for number, scene in enumerate(scenes)
    )
    return len(made) * len(scenes), trials


def _made(text: str, ground: Ground) -> Attack:
    try:
        return Named.parse(text).make(ground)
    except ParameterError as unfit:
        raise ParameterError(f"{text}: {unfit}") from None


def _scenes(folder: RunFolder) -> list[Scene]:
    """What is attacked of what was kept. Raises ParameterError if nothing was, or if it is not
    known what the devices hold."""
    seen = tuple(folder.seen())
    if not seen:
        raise ParameterError(
            f"{folder.path} has no updates to attack: run.keep_seen says of how many rounds to "
            "keep them, and a central run keeps none, as they have no noise"
        )
    settings = folder.settings
    simulated = range(FIRST_NODE_ID, FIRST_NODE_ID + settings.data.devices)
    if any(node not in simulated for each in seen for node in each.members):
        raise ParameterError(
            f"{folder.path} is of real devices: what they hold is only known of simulated ones"
        )
    held, private = material(settings.data, settings.run.seed), settings.private
    ledger = None if private is None else PrivateSums(private, folder.storage)
    single = [each for each in seen if each.clients == 1]  # of a sum too, what was sent in clear
    chosen = (*single[:VICTIMS], *(each for each in seen if each.clients > 1))
    only = len(chosen) == 1
    return [
        Scene(each.clients, settings, held, (each,), ledger=ledger, is_all=only) for each in chosen
    ]


def _inputs(scene: Scene) -> int:
    """How many there are behind what was seen: in a private run weights do not tell."""
    return len(scene.examples(scene.members)[0])


def _ground(folder: RunFolder) -> Ground:
    settings = folder.settings
    return Ground.of(settings, material(settings.data, settings.run.seed))


def _cell(attack: str, scene: Scene) -> Cell:
    """What was tried, in the words of a matrix."""
    settings, (seen,) = scene.settings, scene.seen
    mode = settings.privacy.mode
    defence = seen.protocol if mode == "none" else f"{mode} under {seen.protocol}"
    examples = max(1, round(_inputs(scene) / seen.clients))
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
