"""What can be known of a run before it starts: a mistake is told before any folder is made."""

from bisect import bisect_right
from importlib.util import find_spec

import numpy as np

from tacit.app.config import Settings
from tacit.app.marking import check_mark
from tacit.app.material import descending, material, trainer_for, trying
from tacit.app.sections import PrivacySettings, Secure, Train
from tacit.app.server import above_sums, strategy_for
from tacit.client.budget import charges
from tacit.client.policy import Policy
from tacit.crypto.errors import ParameterError, PolicyRefusal, TooFewClients
from tacit.crypto.identity import SIGNATURE_BYTES, RunKey
from tacit.crypto.secagg.session import DIGEST_BYTES, Purpose, Session
from tacit.crypto.simulated import simulated_roster
from tacit.crypto.vector import Layout
from tacit.privacy.accountants import Adversary, compose, cost
from tacit.privacy.clear import release_of
from tacit.server.groups import within_groups
from tacit.server.pairwise import Binding
from tacit.server.private_sums import turns_of
from tacit.simulations.data.dataset import take
from tacit.simulations.engine.faults import check_devices

# Settings under secure that a protocol has no use for.
UNUSED = {
    "lattice": ("precision", "degree"),
    "tenseal": ("precision", "degree", "seats"),
    "pairwise": ("parameters",),
    "plain": ("clear", "groups", "hostile", "regroup"),
}


def check(settings: Settings) -> None:
    """Load everything a run needs and try what it will do. Raises ParameterError that says what
    to change."""
    if find_spec("safetensors") is None:  # what the model is written with, once all is done
        raise ParameterError("a run needs safetensors: pip install '.[sim]' in Tacit's checkout")
    check_devices(settings.fault_plan, settings.data.devices)
    strategy = settings.strategy
    _check_unused(settings.secure, lattice=settings.policy.lattice)
    if settings.secure.protocol == "plain" and settings.secure.hybrid:
        raise ParameterError("secure.hybrid is for secure sums: it protects nothing that is plain")
    _check_private(settings)
    if settings.secure.protocol != "plain":
        is_public = settings.private is None
        named = strategy_for(strategy, evaluates=is_public)
        above_sums(named, settings, None, None)  # fails if they do not go together
    evaluates = strategy.fraction_evaluate and settings.private is None
    if evaluates and (not settings.data.hold_out or settings.data.limit == 1):
        which = "data.limit = 1" if settings.data.limit == 1 else "data.hold_out = 0"
        raise ParameterError(
            f"{which} leaves devices nothing to evaluate on: "
            "raise it, or set strategy.fraction_evaluate to 0"
        )
    size = _check_model(settings)
    check_mark(settings, size)
    if settings.secure.protocol != "plain":
        _check_cohort(settings, Purpose.TRAIN, size)
        if evaluates:
            _check_cohort(settings, Purpose.EVALUATE, 0)


def _check_unused(secure: Secure, *, lattice: bool) -> None:
    """What is set and does nothing was meant to do something."""
    protocol, where = secure.protocol, f"secure.protocol = {secure.protocol}"
    if protocol == "auto" and not lattice:
        protocol, where = "pairwise", f"{where} and policy.lattice = false"
    for key in UNUSED.get(protocol, ()):
        if getattr(secure, key) != getattr(Secure(), key):
            raise ParameterError(f"secure.{key} means nothing with {where}: leave it out")
    for key in ("clear_norm", "clear_noise"):
        if not secure.clear and getattr(secure, key) != getattr(Secure(), key):
            raise ParameterError(f"secure.{key} means nothing without secure.clear: leave it out")
    if 0 < secure.groups < 3:
        raise ParameterError(
            f"secure.groups = {secure.groups}: a median of fewer than 3 stands up to nobody"
        )
    for key in ("hostile", "regroup"):
        if not secure.groups and getattr(secure, key):
            raise ParameterError(f"secure.{key} means nothing without secure.groups: leave it out")


def _check_private(settings: Settings) -> None:
    """Noise goes into secure sums, into all of them, and nothing is set that has no part in it."""
    privacy, none = settings.privacy, PrivacySettings()
    if privacy.mode == "none":
        for key in sorted(PrivacySettings.model_fields):
            if getattr(privacy, key) != getattr(none, key):
                raise ParameterError(
                    f"privacy.{key} means nothing without privacy.mode: --set "
                    "privacy.mode=distributed, or leave it out"
                )
        return
    if settings.secure.protocol == "plain":
        raise ParameterError(
            f"privacy.mode = {privacy.mode} goes with secure sums, and secure.protocol is plain"
        )
    if settings.secure.clear:
        raise ParameterError(
            "secure.clear sends arrays past the noise of privacy.mode: leave out one of them"
        )
    is_on_device = privacy.unit == "record" and privacy.mode == "local"
    needs = {
        "rate": ("privacy.quantile", privacy.quantile > 0),
        "batch": ("privacy.unit = record", privacy.unit == "record"),
        "draw": ("privacy.unit = record", privacy.unit == "record"),
        "steps": ("privacy.mode = local with privacy.unit = record", is_on_device),
        "quantile": ("privacy.unit = client", privacy.unit == "client"),
        "sketch": ("privacy.unit = client", privacy.unit == "client"),
        "tolerance": ("noise in sums, not in steps of DP-SGD", not is_on_device),
    }
    for key, (where, is_there) in needs.items():
        if not is_there and getattr(privacy, key) != getattr(none, key):
            raise ParameterError(f"privacy.{key} is for {where}: leave it out")
    # All weigh the same, and what is sent under noise has a grid of its own.
    for key in ("max_weight",) if is_on_device else ("max_weight", "bound", "precision"):
        if getattr(settings.secure, key) != getattr(Secure(), key):
            raise ParameterError(
                f"secure.{key} means nothing with privacy.mode = {privacy.mode}: leave it out"
            )
    if privacy.unit == "record":
        _check_record(settings)
    turns = turns_of(settings.private)  # fails here rather than in a round
    if turns is not None and settings.strategy.fraction_train < 1:
        raise ParameterError(
            "with privacy.bands cohorts take turns, and nobody is drawn at random: leave out "
            "strategy.fraction_train, privacy.cohorts says how many are in a round"
        )


def _check_record(settings: Settings) -> None:
    """A step of SGD has no epochs, and batches of its own."""
    train, none = settings.train, Train()
    ignored = ["epochs", "batch_size"]
    if settings.privacy.mode != "local":
        ignored += ["momentum", "weight_decay"]
        if settings.strategy.name == "fedprox":
            raise ParameterError(
                "strategy.name = fedprox pulls at the steps of a device, and with privacy.unit = "
                f"record and privacy.mode = {settings.privacy.mode} it takes but one: take fedavg"
            )
    for key in ignored:
        if getattr(train, key) != getattr(none, key):
            raise ParameterError(
                f"train.{key} means nothing with privacy.unit = record: see privacy.batch, "
                "privacy.draw and privacy.steps"
            )


def _check_budget(settings: Settings, session: Session, policy: Policy) -> None:
    """What a device's owner allows lasts for all rounds, as the device counts; what the run may
    cost lasts for one at least."""
    charged, rounds = charges(session, policy), settings.run.rounds
    if (turns := turns_of(settings.private)) is not None:
        rounds = turns.most(rounds)
    if (privacy := settings.private) is not None:
        charged = charged or privacy.releases(session, session.min_survivors)
        first = compose(charged, privacy.budget.against).epsilon(privacy.budget.delta)
        if first > privacy.budget.epsilon:
            raise ParameterError(
                f"a single round costs epsilon {first:.4g}, and privacy.epsilon = "
                f"{privacy.budget.epsilon:g}: raise it or privacy.noise"
            )
    if not charged or policy.epsilon is None:
        return
    budget = policy.budget()
    once = compose(charged, budget.against)
    needed = once.times(rounds).epsilon(policy.delta)
    if needed > policy.epsilon:
        raise ParameterError(
            f"{rounds} rounds cost a device epsilon {needed:.4g} at delta {policy.delta:g} (one: "
            f"{once.epsilon(policy.delta):.4g}), and policy.epsilon = {policy.epsilon:g}: raise it "
            "or privacy.noise, or take fewer rounds"
        )


def _check_cohort(settings: Settings, purpose: Purpose, length: int) -> None:
    """A cohort that no device would join, or that nothing protects, is no use to start.

    It is tried with the `length` coordinates that its sum will have: the bits of an encrypted sum
    depend on it.
    """
    key = f"strategy.fraction_{purpose.name.lower()}"
    share = getattr(settings.strategy, key.partition(".")[2])
    policy = settings.policy.policy(plain=False)
    cohort = max(2, int(settings.data.devices * share))  # as Flower's strategies round
    what, instead = "round", f"raise {key}"
    if purpose is Purpose.TRAIN and (turns := turns_of(settings.private)) is not None:
        key, cohort, instead = "privacy.cohorts", turns.least, "lower privacy.cohorts"
    if purpose is Purpose.TRAIN and settings.secure.groups:
        key, what, instead = "secure.groups", "group", "take fewer groups"
        cohort //= settings.secure.groups
    if cohort < policy.min_cohort:
        raise ParameterError(
            f"{cohort} devices in a {what}, each asks for {policy.min_cohort} (policy.min_cohort): "
            f"use more devices, {instead}, or lower it"
        )
    roster = simulated_roster(settings.data.devices)
    keys = {
        member.device: RunKey(member.device, member.public, member.public, bytes(SIGNATURE_BYTES))
        for member in roster.members
    }
    asked = [keys.pop(device) for device in range(1, cohort + 1)]
    protocol, binding = settings.sum(), Binding(*2 * [bytes(DIGEST_BYTES)])
    if what == "group":
        protocol = within_groups(protocol)
    try:
        epoch = bytes(DIGEST_BYTES) if protocol.he else b""
        privacy = settings.private
        session = protocol.session(
            1, 1, purpose, asked, roster, keys, length, binding, epoch,
            noising=None if privacy is None else privacy.noised,
        )  # fmt: skip
        policy.check(session, roster)
        _check_budget(settings, session, policy)
    except TooFewClients as few:
        raise ParameterError(
            f"{few} (secure.min_survivors): use more devices, or lower it"
        ) from few
    except PolicyRefusal as refusal:
        raise ParameterError(
            f"every device would refuse: {refusal}; {_remedy(str(refusal))}"
        ) from refusal
    except ParameterError as unsafe:
        raise ParameterError(
            f"{cohort} devices in a {what} ({key}): {unsafe}"
            + ("; gamma is secure.corrupt, drop is secure.drop" if "gamma" in str(unsafe) else "")
        ) from unsafe


def _remedy(refusal: str) -> str:
    """What to set, where a refusal names it."""
    for name in ("lattice", "consortium"):
        if f"(policy.{name})" in refusal:
            return f"to allow it: --set policy.{name}=true (docs/encrypted.md says what for)"
    if "(policy.epsilon)" in refusal:
        return "to add noise: --set privacy.mode=distributed"
    if "(policy.trust_server)" in refusal:
        return "take privacy.mode=distributed, or trust it: --set policy.trust_server=true"
    return "see the settings under secure, privacy and policy"


def _check_model(settings: Settings) -> int:
    """The model is built, is finite, and can be evaluated on one example: its coordinates."""
    seed, name = settings.run.seed, settings.model.name
    trainer = trainer_for(settings.model, settings.data, seed)
    test = material(settings.data, seed).dataset.test
    with trying(settings.model, "evaluated"):
        model = trainer.initial(seed)
        broken = [key for key, array in model.items() if not np.isfinite(array).all()]
        trainer.evaluate(model, take(test, np.arange(1)))
        if settings.privacy.mode != "none" and settings.privacy.unit == "record":
            with descending(trainer).descent(model, take(test, np.arange(1)), seed):
                pass  # a model that mixes examples is refused here, not by every device
    _check_clear(settings, Layout.of(model))
    if broken:
        raise ParameterError(f"model {name}: array {broken[0]!r} is not finite when it is built")
    return Layout.of(model).size


def _check_clear(settings: Settings, layout: Layout) -> None:
    """What is sent in the clear is in the model, and a device's budget lasts for all rounds."""
    if settings.secure.protocol == "plain":
        return
    clear, rounds = settings.sum().clear_of(layout), settings.run.rounds
    if clear is None:
        return
    once = cost(release_of(clear, run=1, round=1, cohort=1), Adversary.SERVER)
    budget, delta = settings.policy.clear_epsilon, settings.policy.delta
    lasts = bisect_right(range(1, rounds + 1), budget, key=lambda n: once.times(n).epsilon(delta))
    if lasts < rounds:
        raise ParameterError(
            f"secure.clear: {rounds} rounds with {clear.size} coordinates in the clear cost a "
            f"device epsilon {once.times(rounds).epsilon(delta):.6g} at delta {delta:g} (one: "
            f"{once.epsilon(delta):.6g}), and policy.clear_epsilon = {budget:g} lasts for {lasts}: "
            "raise it or secure.clear_noise, or take fewer rounds"
        )
