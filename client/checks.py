"""Whether a message is what it says, before anything is counted, trained or sent."""

from flwr.app import Message

from tacit.client.device import Device
from tacit.client.pipeline import all_arrays
from tacit.client.policy import Policy
from tacit.client.trainer import Arrays
from tacit.crypto.errors import ProtocolError
from tacit.crypto.identity import Roster, run_public
from tacit.crypto.secagg import client as secagg
from tacit.crypto.secagg import stages
from tacit.crypto.secagg.session import Purpose, Session
from tacit.crypto.vector import Layout, model_digest

ROSTER_SLOT = "roster"
_COHORT_SLOT = "cohort"


def check_plain(policy: Policy, message: Message) -> None:
    """Raises PolicyRefusal unless the owner allows such a message outside a secure sum."""
    policy.check_plain(message.metadata.message_type)
    if policy.models:
        for model in all_arrays(message.content):
            policy.check_model(model)


def check_ours(session: Session, state: secagg.Enrolled) -> None:
    """Raises ProtocolError unless the session is of this run and holds the key we published.

    Checked before anything is counted or trained, so that a session of others costs us nothing.
    """
    ours = session.run == state.run and state.device in session.devices
    if not ours or session.key(state.device).public != run_public(state.secret):
        raise ProtocolError("session does not hold our key of this run", sender=0, stage="report")


def verify_cohort(device: Device, session: Session, *, now: int) -> None:
    """Raises ProtocolError unless every device of the cohort is enrolled and its run key signed.

    Signatures are checked once per cohort: the vault remembers the digest of the last good one.
    """
    roster = held_roster(device)
    session.verify_members(roster, now=now)
    if device.vault.read(_COHORT_SLOT) != session.cohort_digest:
        session.verify_keys(roster)
        device.vault.write(_COHORT_SLOT, session.cohort_digest)


def check_binding(session: Session, message: Message, received: Arrays, weight_key: str) -> None:
    """Raises ProtocolError unless the session is about exactly this message."""

    def refuse(reason: str) -> ProtocolError:
        return ProtocolError(reason, sender=0, stage="report")

    category = message.metadata.message_type.split(".")[0]
    if category != session.purpose.name.lower():
        raise refuse(f"a session to {session.purpose.name.lower()} in a {category} message")
    if model_digest(received) != session.model:
        raise refuse("the model is not the one the session names")
    # Or noise would be drawn for as many coordinates as a server likes, and be paid for.
    shown = 0 if session.clear is None else session.clear.size
    trains = session.purpose is Purpose.TRAIN
    if trains and Layout.of(received).size != session.codec.length + shown:
        raise refuse("the model has not as many coordinates as the session hides and shows")
    # Whatever the function can read has to be bound: one device asked for another action, or given
    # a number of its own, would stand out in the sum.
    configs = list(message.content.config_records.values())
    config = dict(configs[0]) if len(configs) == 1 else {}
    kind = message.metadata.message_type
    if (
        len(configs) > 1
        or message.content.metric_records
        or stages.config_digest(config, weight_key, kind, [*message.content]) != session.config
    ):
        raise refuse("the configuration is not the one the session names")


def held_roster(device: Device) -> Roster:
    """The newest that this device was shown. Raises ProtocolError if it was shown none."""
    data = device.vault.read(ROSTER_SLOT)
    if data is None:
        raise ProtocolError("this device holds no roster", sender=0, stage="report")
    return Roster.decode(data)
