"""What a device's owner agrees to. The device checks every request against it and refuses."""

import math
import re
from dataclasses import dataclass

from tacit.crypto.codec import Codec
from tacit.crypto.errors import ParameterError, PolicyRefusal
from tacit.crypto.identity import Roster
from tacit.crypto.secagg.noised import Noised
from tacit.crypto.secagg.parameters import SECURITY, cut_risk, least_degree, most_corrupt
from tacit.crypto.secagg.session import Purpose, Session
from tacit.crypto.vector import Arrays, Layout
from tacit.privacy.accountants import Adversary
from tacit.privacy.charges import unit_of
from tacit.privacy.gaussian import LARGEST_EPSILON
from tacit.privacy.ledger import Budget

UNITS = ("client", "record")
_FINGERPRINT = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Policy:
    """The owner's last word.

    min_cohort      smallest number of devices to be summed with
    min_survivors   smallest number of reports a sum may be opened over
    corrupt         largest fraction of cohort and roster that may collude with the server; a sum
                    is opened only if two devices of it at least are not among them
    security        a server that chooses who drops out may cut the graph of masks in two with a
                    chance of 2**-security at most; 0 is any graph
    min_bits        narrowest ring: below it, masks would hide little of a wide range
    max_norm        largest L2 norm an update may have; longer ones are scaled down. None: as it is
    plain           whether anything is ever answered outside a secure sum
    hybrid          whether a sum must stand up to a later quantum computer: secrets of ML-KEM too
    lattice         whether sums under lattice keys are joined, a protocol that is new: see
                    `docs/security.md`, Encrypted sums
    consortium      whether sums are joined under a key that all devices hold: any of them that is
                    in league with the server opens this device's updates
    clear_epsilon   what parts of updates that are sent in the clear may cost together, in the
                    device's whole life, at `delta`: see `tacit.privacy.clear`. 0 is no such part,
                    at any noise
    epsilon         what all sums may cost together, in the device's whole life, at `delta`; without
                    noise none is joined. None: noise is not asked for
    unit            whom that protects: "client", all that this device sends, or "record", each
                    example on it
    trust_server    whether noise that the server promises to add counts as noise
    keep            share of an update's coordinates that are sent, those of largest size; the
                    others are zeros. 1.0: all of them. One with noise of its own is sent whole
    models          fingerprints of the models that this device works with, as `Layout.fingerprint`
                    has them and `tacit explain model` prints them. Empty: of any structure

    `models` is empty by default because only the owner knows what is to be trained, and an app that
    loads arrays into an architecture of its own refuses another structure by itself: a layer that
    a server slips in does not load. An app that came from the server, or that builds what the run's
    configuration names, loads it. The structure says nothing about the values in it.
    """

    min_cohort: int = 3
    min_survivors: int = 3
    corrupt: float = 1 / 3
    security: int = SECURITY
    min_bits: int = 16
    max_norm: float | None = None
    plain: bool = False
    hybrid: bool = False
    lattice: bool = False
    consortium: bool = False
    clear_epsilon: float = 0.0
    epsilon: float | None = None
    delta: float = 1e-5
    unit: str = "client"
    trust_server: bool = False
    keep: float = 1.0
    models: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.min_cohort < 2 or self.min_survivors < 2:
            raise ParameterError("min_cohort and min_survivors must be at least 2: one is no crowd")
        if not 0 <= self.corrupt < 1:
            raise ParameterError(f"corrupt={self.corrupt}, expected 0 <= corrupt < 1")
        if self.security < 0:
            raise ParameterError(f"security={self.security}, expected 0 or more")
        if self.max_norm is not None and not self.max_norm > 0:
            raise ParameterError(f"max_norm={self.max_norm}, expected above 0")
        if not 0 < self.keep <= 1:
            raise ParameterError(f"keep={self.keep}, expected above 0 and at most 1")
        if not 0 <= self.clear_epsilon <= LARGEST_EPSILON:  # also true for NaN
            raise ParameterError(
                f"clear_epsilon={self.clear_epsilon}, expected 0 .. {LARGEST_EPSILON:g}"
            )
        if self.unit not in UNITS:
            raise ParameterError(f"unit={self.unit!r}, expected one of {', '.join(UNITS)}")
        for model in self.models:
            if not _FINGERPRINT.fullmatch(model):
                raise ParameterError(
                    f"models has {model!r}, expected 64 lower-case hexadecimal digits each: "
                    "`tacit explain model` prints them"
                )
        self.budget()  # fails here rather than in a round

    def budget(self) -> Budget:
        """What private sums may cost; infinite if the owner asks for no noise."""
        against = Adversary.OUTSIDER if self.trust_server else Adversary.SERVER
        return Budget(math.inf if self.epsilon is None else self.epsilon, self.delta, against)

    def stricter(self, other: "Policy") -> "Policy":
        """What both agree to: the stricter of the two in every field.

        Raises PolicyRefusal where one asks for noise that protects a device, and the other for such
        that protects its examples: each has an account of its own, and to go over to the other one
        would leave what was spent behind. Also where both name models, and none in common.
        """
        norms = [norm for norm in (self.max_norm, other.max_norm) if norm is not None]
        budgets = [each.epsilon for each in (self, other) if each.epsilon is not None]
        units = {each.unit for each in self._asking(other)}
        if len(budgets) == 2 and len(units) == 2:
            raise PolicyRefusal(
                "the app asks for another unit of noise than this device's owner (policy.unit)"
            )
        return Policy(
            max(self.min_cohort, other.min_cohort),
            max(self.min_survivors, other.min_survivors),
            max(self.corrupt, other.corrupt),
            max(self.security, other.security),
            max(self.min_bits, other.min_bits),
            min(norms, default=None),
            self.plain and other.plain,
            self.hybrid or other.hybrid,
            self.lattice and other.lattice,
            self.consortium and other.consortium,
            min(self.clear_epsilon, other.clear_epsilon),
            min(budgets, default=None),
            min(each.delta for each in self._counting(other)),
            min(units),  # without a budget it is of no account
            all(each.trust_server for each in self._asking(other)),
            min(self.keep, other.keep),
            self._models(other),
        )

    def _models(self, other: "Policy") -> tuple[str, ...]:
        """The models that both allow. None at all cannot be said by a policy, where no name is
        any model: so that is refused here."""
        if not self.models or not other.models:
            return self.models or other.models
        if not (both := tuple(sorted(set(self.models) & set(other.models)))):
            raise PolicyRefusal(
                "the app allows no model that this device's owner allows (policy.models)"
            )
        return both

    def _asking(self, other: "Policy") -> tuple["Policy", ...]:
        """Those of both that ask for noise; both, if none does."""
        return tuple(each for each in (self, other) if each.epsilon is not None) or (self, other)

    def _counting(self, other: "Policy") -> tuple["Policy", ...]:
        """Those of both whose delta counts: both, where both let something out in the clear."""
        shows = self.clear_epsilon and other.clear_epsilon
        return (self, other) if shows else self._asking(other)

    def check(self, session: Session, roster: Roster) -> None:
        """Raises PolicyRefusal, with the reason, for a session outside this policy.

        `roster` is the one that the session names.
        """
        if session.lattice and not self.lattice:
            raise PolicyRefusal(
                "a sum under lattice keys: this device's owner does not allow it (policy.lattice)"
            )
        if session.he:
            self.check_consortium()
        cohort = len(session.cohort)
        if cohort < self.min_cohort:
            raise PolicyRefusal(f"a cohort of {cohort}, this device asks for {self.min_cohort}")
        if session.min_survivors < self.min_survivors:
            raise PolicyRefusal(
                f"a sum over {session.min_survivors}, this device asks for {self.min_survivors}"
            )
        # The server chose the cohort, and it chooses whose reports arrive: the worst case is that
        # all of the corrupt devices are among the survivors. Their own reports they can subtract
        # from the sum, so one honest survivor would stand alone.
        corrupt = math.floor(self.corrupt * cohort)
        if session.min_survivors - corrupt < 2:
            raise PolicyRefusal(
                f"a sum over {session.min_survivors} with {corrupt} of the cohort corrupt: "
                f"this device asks for {corrupt + 2}"
            )
        self._check_committee(session, roster)
        self._check_graph(session, corrupt)
        self._check_noise(session)
        # Noise keeps to any ring: a narrow one costs accuracy, and nothing else.
        if session.codec.bits < self.min_bits and isinstance(session.codec, Codec):
            raise PolicyRefusal(
                f"a ring of {session.codec.bits} bits, this device asks for {self.min_bits}"
            )
        if self.hybrid and not session.hybrid:
            raise PolicyRefusal(
                "a sum under X25519 alone, this device asks for ML-KEM beside it (policy.hybrid)"
            )

    def _check_committee(self, session: Session, roster: Roster) -> None:
        """Two sets of survivors cannot both be attested, nor corrupt members alone open any."""
        size = session.committee_size
        if session.seats:
            enrolled = len(roster.members)
            if size > enrolled:
                raise PolicyRefusal(f"a committee of {size} seats out of {enrolled} devices")
            if not set(session.committee) <= set(roster.drawn(size)):
                raise PolicyRefusal("a committee that the roster's beacon did not draw")
            members = most_corrupt(enrolled, math.floor(self.corrupt * enrolled), size)
        else:  # the server chose it: all corrupt devices of the cohort may be on it
            members = min(math.floor(self.corrupt * len(session.cohort)), size)
        if 2 * session.threshold <= size + members:
            raise PolicyRefusal(
                f"threshold {session.threshold} of {size} falls to {members} corrupt members"
            )

    def _check_graph(self, session: Session, corrupt: int) -> None:
        """No choice of survivors leaves the honest ones in two parts that share no mask.

        An encrypted sum has no masks to share: its committee opens the sum of one set of keys, or
        decrypts one sum.
        """
        if not session.is_masked:
            return
        cohort = len(session.cohort)
        removable = cohort - session.min_survivors
        if cut_risk(cohort, corrupt, removable, session.degree) > -self.security:
            least = least_degree(cohort, corrupt, removable, self.security)
            raise PolicyRefusal(
                f"{session.degree} neighbours in a cohort of {cohort} of which {corrupt} may be "
                f"corrupt and {removable} missing: this device asks for {least}"
            )

    def _check_noise(self, session: Session) -> None:
        agreed = session.codec
        if not isinstance(agreed, Noised):
            if self.epsilon is None:
                return
            if session.purpose is Purpose.EVALUATE:
                raise PolicyRefusal(
                    "an evaluation: its metrics have no noise, and this device asks for some "
                    "(policy.epsilon)"
                )
            if self.unit == "client" or session.clear is not None:
                raise PolicyRefusal(
                    "a sum without noise, and this device asks for some (policy.epsilon)"
                )
            return  # whether the function adds noise of its own shows when it has: see `own_noise`
        longest = agreed.clip * max(1, agreed.records)
        if self.max_norm is not None and longest > self.max_norm:
            raise PolicyRefusal(
                f"updates clipped to {longest:g}, this device asks for {self.max_norm:g} "
                "(policy.max_norm)"
            )
        if self.epsilon is None:
            return
        unit = unit_of(agreed).name.lower()
        if unit != self.unit:
            raise PolicyRefusal(
                f"noise that protects a {unit}, this device asks for {self.unit} (policy.unit)"
            )
        if agreed.central and not self.trust_server:
            raise PolicyRefusal(
                "noise that the server promises to add, and this device does not count on it "
                "(policy.trust_server)"
            )

    def check_model(self, model: Arrays) -> None:
        """Raises PolicyRefusal for a model of a structure that the owner does not list."""
        if self.models and (found := Layout.of(model).fingerprint) not in self.models:
            raise PolicyRefusal(
                f"a model of another structure than this device's owner allows: {found} "
                "(policy.models)"
            )

    def check_consortium(self) -> None:
        """Raises PolicyRefusal unless a key that all devices hold is good enough."""
        if not self.consortium:
            raise PolicyRefusal(
                "a sum under a key that all devices hold: this device's owner does not allow it "
                "(policy.consortium)"
            )

    def check_plain(self, kind: str) -> None:
        """Raises PolicyRefusal unless requests outside a secure sum are allowed."""
        if self.plain and self.epsilon is not None:
            raise PolicyRefusal(
                f"{kind} outside a secure sum has no noise, and this device asks for some "
                "(policy.epsilon)"
            )
        if not self.plain:
            raise PolicyRefusal(
                f"{kind} outside a secure sum: this device's owner does not allow it (policy.plain)"
            )
