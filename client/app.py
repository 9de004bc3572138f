"""`SecureClientApp`: Flower's ClientApp, answering only within its owner's policy.

The decorators are Flower's own, and the train and evaluate functions stay as they are: what they
return is turned into a masked contribution before anything leaves the device.
"""

import contextlib
import logging
import os
import struct
import time

import numpy as np
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import Mod

from tacit.client import budget, diary, rounds
from tacit.client.checks import (
    ROSTER_SLOT,
    check_binding,
    check_ours,
    check_plain,
    held_roster,
    verify_cohort,
)
from tacit.client.device import Device, DeviceOf, enrolled_device
from tacit.client.fields import answer_to, field, holds, is_secure
from tacit.client.pipeline import (
    Contribution,
    Stated,
    contribution,
    private_update,
    received_arrays,
)
from tacit.client.policy import Policy
from tacit.client.trainer import Arrays
from tacit.crypto import labels
from tacit.crypto.codec import Codec, Ring
from tacit.crypto.errors import (
    BudgetExceeded,
    ParameterError,
    PolicyRefusal,
    ProtocolError,
    TacitError,
)
from tacit.crypto.he.dealing import Delivery, deal, deal_bytes, read_consortium, receive
from tacit.crypto.he.keys import Consortium
from tacit.crypto.identity import KEY_BYTES, Roster, agree, run_public
from tacit.crypto.secagg import client as secagg
from tacit.crypto.secagg import stages
from tacit.crypto.secagg.clear import Integers
from tacit.crypto.secagg.hybrid import (
    SEED_BYTES,
    DecapsulateRequest,
    EncapsulateRequest,
    KemKey,
    decapsulate,
    encapsulate,
)
from tacit.crypto.secagg.messages import AttestRequest, RevealRequest
from tacit.crypto.secagg.noised import Noised
from tacit.crypto.secagg.session import Purpose, Session
from tacit.crypto.vector import Difference, Floats, Layout
from tacit.crypto.wire import Reader, Writer
from tacit.privacy.clear import draw_noise, released
from tacit.privacy.mechanisms import Mechanism
from tacit.privacy.releases import Release

log = logging.getLogger("tacit.client")


class SecureClientApp(ClientApp):
    """A ClientApp whose updates are seen only as part of a sum.

    `policy` holds beside the one in the device's vault, the stricter of the two in every field;
    None leaves it to the vault. `device_of` says who the device is (see `tacit.client.device`). A
    message outside a secure sum is answered only if the policy allows plain training. Whatever is
    refused is in the device's log with the reason, and the server is told the reason, but nothing
    that was computed from the device's data. A device with a vault of its own keeps a diary too:
    see `tacit.client.diary`.
    """

    def __init__(
        self,
        policy: Policy | None = None,
        device_of: DeviceOf = enrolled_device,
        mods: list[Mod] | None = None,
    ) -> None:
        super().__init__(mods=mods)
        self._policy = policy
        self._device_of = device_of

    def __call__(self, message: Message, context: Context) -> Message:
        """Answer one message, or raise the TacitError that says why not."""
        kind = message.metadata.message_type
        stage = {
            stages.ENROL: self._enrol,
            stages.ENCAPSULATE: self._encapsulate,
            stages.DECAPSULATE: self._decapsulate,
            stages.DEAL: self._deal,
            stages.KEY: self._key,
            stages.ATTEST: self._attest,
            stages.REVEAL: self._reveal,
        }.get(kind)
        secure = stage is not None or is_secure(message)
        try:
            if not secure:
                return self._plain(message, context)
            return (stage or self._report)(message, context)
        except TacitError as refused:
            log.warning("refused %s: %s", kind, refused)
            of = diary.Aborted if isinstance(refused, DeviceFailed) else diary.Refused
            self._end(context, of(context.run_id, kind, str(refused)), secure=secure)
            raise
        except Exception as failed:  # a full disk, bytes numpy cannot read, a defect of ours: the
            # text of such an error is nobody's business but the owner's
            log.exception("%s failed", kind)
            what = f"{type(failed).__name__} while it answered {kind}"
            self._end(context, diary.Aborted(context.run_id, kind, what), secure=secure)
            raise _failure(what) from None

    def _end(self, context: Context, why: diary.Turn, *, secure: bool) -> None:
        """Whatever was unexpected in a sum ends it for this device: nothing of it is opened."""
        with contextlib.suppress(TacitError, OSError):  # without a vault nothing is kept either
            vault = self._device_of(context).vault
            if secure:
                with contextlib.suppress(TacitError, OSError):
                    rounds.forget(vault)
            diary.note_if_possible(vault, why, time.time())

    def _plain(self, message: Message, context: Context) -> Message:
        """An answer outside of any sum, if the owner allows it."""
        device = self._device_of(context)
        check_plain(self._agreed(device), message)
        reply = self._run_app(message, context)
        answered = diary.Answered(context.run_id, message.metadata.message_type)
        diary.note(device.vault, answered, time.time())
        return reply

    def _enrol(self, message: Message, context: Context) -> Message:
        """Check the roster; publish this run's keys. Asked again, it publishes the same keys."""
        device = self._device_of(context)
        roster = Roster.decode(field(message, stages.ROSTER, bytes))
        hybrid = holds(message, stages.HYBRID) and field(message, stages.HYBRID, bool)
        roster.verify(device.authority)
        kept = device.vault.read(ROSTER_SLOT)
        if kept is not None and Roster.decode(kept).serial > roster.serial:
            raise ProtocolError("roster is older than the one we hold", sender=0, stage="enrol")
        listed = roster.member(device.number, now=_now())
        if listed.public != device.identity.public:
            raise ProtocolError("roster lists another key for us", sender=0, stage="enrol")
        if kept != roster.encode():
            changed = diary.RosterChanged(roster.serial, len(roster.members))
            diary.note(device.vault, changed, time.time())
            device.vault.write(ROSTER_SLOT, roster.encode())
        state = rounds.run_state(device.vault, context.run_id)
        if state is None:
            seed = os.urandom(SEED_BYTES) if hybrid else b""
            rand = os.urandom(KEY_BYTES)
            state, key = secagg.enrol(device.identity, context.run_id, device.number, rand, seed)
            rounds.keep_run(device.vault, state)
        else:
            key = state.run_key(device.identity)
        writer = Writer()
        key.write(writer)
        fields = {stages.RUN_KEY: writer.data()}
        if state.kem is not None:
            fields[stages.KEM_KEY] = state.kem.public
        return answer_to(message, fields)

    def _encapsulate(self, message: Message, context: Context) -> Message:
        """Draw an ML-KEM secret with each device asked for, and send it a capsule with it."""
        device = self._device_of(context)
        state, _ = _hybrid(device, context, "encapsulate")
        request = EncapsulateRequest.decode(field(message, stages.MESSAGE, bytes))
        me, roster = state.run_key(device.identity), held_roster(device)
        secrets, answer = encapsulate(
            device.identity, roster, state.run, me, request.peers, now=_now()
        )
        rounds.keep_kem(device.vault, secrets)
        return answer_to(message, {stages.MESSAGE: answer.encode()})

    def _decapsulate(self, message: Message, context: Context) -> Message:
        """Keep the secrets in the capsules for us."""
        device = self._device_of(context)
        state, kem = _hybrid(device, context, "decapsulate")
        request = DecapsulateRequest.decode(field(message, stages.MESSAGE, bytes))
        me, roster = state.run_key(device.identity), held_roster(device)
        secrets = decapsulate(kem, roster, state.run, me, request.capsules, now=_now())
        rounds.keep_kem(device.vault, secrets)
        return answer_to(message, {})

    def _deal(self, message: Message, context: Context) -> Message:
        """Make the key of a consortium, and seal it to each of the other members."""
        device = self._device_of(context)
        data = field(message, stages.MESSAGE, bytes)
        consortium = read_consortium(Reader(data, sender=0, stage="deal"))
        state = self._joined(device, context, consortium)
        if consortium.dealer != device.number:
            raise ProtocolError("another is to deal", sender=0, stage="deal")
        secrets = agree(state.secret, consortium.members)
        group, dealt = deal(consortium, secrets, os.urandom(deal_bytes(consortium)))
        rounds.keep_group(device.vault, group)
        return answer_to(message, {stages.MESSAGE: dealt.encode()})

    def _key(self, message: Message, context: Context) -> Message:
        """Keep the consortium's key that its dealer sealed to us."""
        device = self._device_of(context)
        delivery = Delivery.decode(field(message, stages.MESSAGE, bytes))
        consortium = delivery.consortium
        state = self._joined(device, context, consortium)
        secrets = agree(state.secret, [consortium.key(consortium.dealer)])
        group = receive(delivery, device.number, secrets[consortium.dealer])
        rounds.keep_group(device.vault, group)
        return answer_to(message, {})

    def _joined(self, device: Device, context: Context, consortium: Consortium) -> secagg.Enrolled:
        """Our run key, once it is sure that we may share a key with the members."""
        self._agreed(device).check_consortium()
        state = rounds.run_state(device.vault, context.run_id)
        if state is None:
            raise ProtocolError(stages.NOT_ENROLLED, sender=0, stage="key")
        ours = consortium.run == state.run
        if not ours or consortium.key(device.number).public != run_public(state.secret):
            raise ProtocolError("consortium does not hold our key", sender=0, stage="key")
        consortium.verify(held_roster(device), now=_now())
        return state

    def _report(self, message: Message, context: Context) -> Message:
        """Check the session, train, and send the masked contribution."""
        device = self._device_of(context)
        state = rounds.run_state(device.vault, context.run_id)
        if state is None:
            raise ProtocolError(stages.NOT_ENROLLED, sender=0, stage="report")
        session = Session.decode(field(message, stages.SESSION, bytes))
        weight_key = field(message, stages.WEIGHT_KEY, str)
        del message.content[stages.RECORD]  # the app sees the message as its strategy made it
        check_ours(session, state)
        verify_cohort(device, session, now=_now())
        policy = self._agreed(device)
        policy.check(session, held_roster(device))
        received = received_arrays(message.content)
        check_binding(session, message, received, weight_key)
        policy.check_model(received)
        self._check_budgets(session, device, policy)
        # What Flower says of a message is not the session's; of it a function may use the round.
        message.metadata.group_id = str(session.round)
        group = rounds.use_group(device.vault, session) if session.he else None
        agreed = {} if group else rounds.agreed(device.vault, session)
        rounds.forget(device.vault)
        rounds.serve_once(device.vault, session)

        reply = self._answered(message, context, session)
        trained = received if session.purpose is Purpose.TRAIN else None
        part = session.clear
        noise = None if part is None else draw_noise(part, os.urandom(KEY_BYTES))
        try:
            charged = _charged(session, reply, policy)
            # Before anything that depends on what was let out: whether it fits is told.
            budget.spend(device.vault, policy, charged)
            given = _given(session, reply, trained, weight_key, policy, alike=bool(charged))
            encoded = self._encode(session, device, given)
            shown = self._shown(session, device, given, noise)
        except ParameterError as unfit:
            # Why it does not fit is told in numbers that only the sum may show: a server that sets
            # a bound too low on purpose would read a weight or a loss out of the refusal.
            log.warning("%s: %s", message.metadata.message_type, unfit)
            raise _failure("the function's reply does not fit the session") from None
        if session.he:  # training takes its time: the key may have been given up
            group = rounds.group(device.vault, session)
        reported, report = secagg.report(
            state,
            device.identity,
            session,
            agreed,
            encoded,
            given.names,
            stages.setup_digest(context.run_config),
            os.urandom(secagg.REPORT_RAND_BYTES),
            group,
            shown,
        )
        # Now that nothing is left to do but to send it:
        budget.spend_clear(device.vault, policy, session)
        if diary.is_kept(device.vault):
            costs = budget.epsilons(policy, session, charged)
            diary.note(device.vault, diary.took_part(session, *costs), time.time())
        if device.number in session.committee:
            rounds.begin(device.vault, reported)
        return answer_to(message, {stages.MESSAGE: report.encode(session)})

    def _check_budgets(self, session: Session, device: Device, policy: Policy) -> None:
        """Before anything is trained: raises as `budget.check_clear` and `budget.check`."""
        budget.check_clear(device.vault, policy, session)
        charged = budget.charges(session, policy)
        budget.check(device.vault, policy, charged)

    def _witness(self, device: Device, context: Context, session: Session) -> None:
        """Take our seat on the committee of a sum that we do not contribute to."""
        state = rounds.run_state(device.vault, context.run_id)
        if state is None:
            raise ProtocolError(stages.NOT_ENROLLED, sender=0, stage="attest")
        seated = secagg.witness(state, session)
        verify_cohort(device, session, now=_now())
        self._agreed(device).check(session, held_roster(device))
        rounds.forget(device.vault)
        rounds.serve_once(device.vault, session)
        rounds.begin(device.vault, seated)

    def _attest(self, message: Message, context: Context) -> Message:
        """As a committee member: sign the one set of survivors we will help to open.

        Who did not report in this sum is told the session along with the survivors.
        """
        device = self._device_of(context)
        data = field(message, stages.MESSAGE, bytes)
        if holds(message, stages.SESSION):
            self._witness(device, context, Session.decode(field(message, stages.SESSION, bytes)))

        def step(state: secagg.Reported) -> tuple[secagg.Attested, bytes]:
            request = AttestRequest.decode(data, state.session)
            shared = state.session.he
            agreed = {} if shared else rounds.agreed(device.vault, state.session)
            setup = stages.setup_digest(context.run_config)
            attested, attestation = secagg.attest(state, device.identity, agreed, setup, request)
            return attested, attestation.encode()

        answer = rounds.advance(device.vault, secagg.Reported, step)
        return answer_to(message, {stages.MESSAGE: answer})

    def _reveal(self, message: Message, context: Context) -> Message:
        """As a committee member: open our shares for that set, and nothing else. In a consortium,
        decrypt the sum over it."""
        device = self._device_of(context)
        data = field(message, stages.MESSAGE, bytes)

        def opened(state: secagg.Attested) -> bytes:
            session, roster = state.session, held_roster(device)
            request = RevealRequest.decode(data, session)
            if not session.he:
                return secagg.reveal(state, roster, request).encode()
            setup = stages.setup_digest(context.run_config)
            return rounds.with_group(
                device.vault,
                session,
                lambda group: secagg.decrypt(state, roster, setup, group, request).encode(),
            )

        def step(state: secagg.Attested) -> tuple[None, bytes]:
            message = opened(state)
            done = diary.opened(state.session, len(state.survivors))
            diary.note(device.vault, done, time.time())
            return None, message

        answer = rounds.advance(device.vault, secagg.Attested, step)
        return answer_to(message, {stages.MESSAGE: answer})

    def _agreed(self, device: Device) -> Policy:
        """What the app's policy and the owner's both allow; where neither says, the default."""
        if self._policy is None or device.policy is None:
            return self._policy or device.policy or Policy()
        return self._policy.stricter(device.policy)

    def _encode(self, session: Session, device: Device, given: Contribution) -> Ring:
        """The contribution on the session's grid, with its noise in a private sum: the last plain
        values of the sum.

        Without noise the rounding is derived, not drawn: nobody else can foresee it, and yet a
        simulation, whose identities do not change, ends with the same model each time it is run.
        """
        if isinstance(session.codec, Noised):  # noise that can be worked out again is none
            private = Mechanism.of(session.codec)
            return private.encode(given.update, session.id, os.urandom(KEY_BYTES))
        sum_ = struct.pack("<IB", session.round, session.purpose)
        rand = device.identity.derive(labels.ROUNDING, session.model, sum_)
        return given.encode(session.codec, rand)

    def _shown(
        self, session: Session, device: Device, given: Contribution, noise: Integers | None
    ) -> Integers | None:
        """What the session has us send in the clear, under `noise`, drawn before the data was
        looked at. It is drawn by the operating system, so such a simulation does not repeat itself.
        """
        if session.clear is None or given.clear is None or noise is None:
            return None
        assert isinstance(session.codec, Codec)  # a private sum has nothing in the clear
        share = given.weight / session.codec.max_weight
        return released(session.clear, given.clear, share, noise, os.urandom(KEY_BYTES))

    def _answered(self, message: Message, context: Context, session: Session) -> RecordDict | None:
        """What the function makes of a message; None if it fails in a private sum.

        Whether it does may depend on the data, and the server chooses the model: with one that
        overflows where there is what it looks for, a failure would be its answer, without noise
        and as often as it likes. So the device sends zeros, and pays for them.
        """
        try:
            return self._run_app(message, context).content
        except DeviceFailed as failed:
            if not isinstance(session.codec, Noised):
                raise
            log.warning("zeros in its place, with noise: %s", failed)
            return None

    def _run_app(self, message: Message, context: Context) -> Message:
        """The owner's own train, evaluate or query function.

        Its exceptions can quote training data, and Flower would send their text to the server. So
        the server is told the kind of error, and the rest stays in the device's log.
        """
        kind = message.metadata.message_type
        try:
            reply = super().__call__(message, context)
        except (PolicyRefusal, BudgetExceeded):
            raise  # said to the server on purpose
        except (Exception, SystemExit) as failed:  # any error of the owner's code; see above
            log.exception("%s failed", kind)
            raise _failure(f"{type(failed).__name__} in the device's {kind} function") from None
        if reply.has_error():
            raise _failure(f"the device's {kind} function answered with an error")
        return reply


def _charged(session: Session, reply: RecordDict | None, policy: Policy) -> tuple[Release, ...]:
    """What a reply costs this device, by the session and by what its function says of it.

    Raises PolicyRefusal for one that is not as private as it has to be.
    """
    stated = Stated() if reply is None else Stated.of(reply)
    if not isinstance(session.codec, Noised):
        return budget.own_noise(policy, stated.releases)
    if reply is not None:
        stated.check(session.codec)
    return budget.charges(session, policy)


def _given(
    session: Session,
    reply: RecordDict | None,
    trained: Arrays | None,
    weight_key: str,
    policy: Policy,
    *,
    alike: bool,
) -> Contribution:
    """What a reply adds to the sum; in a private one zeros, if there is none or it does not fit,
    which may depend on the data too. `trained` is the model that was sent, None for an evaluation.

    Raises ParameterError for a reply that does not fit elsewhere.
    """
    if not isinstance(session.codec, Noised) or trained is None:
        assert reply is not None  # without noise a failure has been told
        return contribution(reply, trained, weight_key, policy, session.clear, alike=alike)
    update: Floats | Difference = np.zeros(Layout.of(trained).size)
    try:
        if reply is not None:
            update = private_update(reply, trained, Stated.of(reply), policy.keep)
    except ParameterError as unfit:
        log.warning("zeros in its place, with noise: %s", unfit)
    return Contribution(update, (), np.zeros(0), 1.0)


class DeviceFailed(TacitError):
    """Something on the device failed; the text names the kind of failure and nothing else."""


def _failure(what: str) -> DeviceFailed:
    return DeviceFailed(f"{what}; the device's log has the details")


def _hybrid(device: Device, context: Context, stage: str) -> tuple[secagg.Enrolled, KemKey]:
    """Our keys for a hybrid run. Raises ProtocolError if we have none."""
    state = rounds.run_state(device.vault, context.run_id)
    if state is None:
        raise ProtocolError(stages.NOT_ENROLLED, sender=0, stage=stage)
    if state.kem is None:
        raise ProtocolError("we enrolled without an ML-KEM key", sender=0, stage=stage)
    return state, state.kem


def _now() -> int:
    return int(time.time())
