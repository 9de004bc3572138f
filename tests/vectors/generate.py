"""Writes the vectors in this folder: `python -m tests.vectors.generate`. See README.md.

Every random byte is counted (SHAKE-128 of a seed and a number), so a second run writes the same
files; `tests/crypto/test_vectors.py` holds them to that.
"""

import hashlib
import json
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from tacit.crypto.codec import Codec, Ring
from tacit.crypto.errors import ProtocolError, TacitError, TooFewClients
from tacit.crypto.identity import KEY_BYTES, Roster, RunKey
from tacit.crypto.lattice import keys as lattice_keys
from tacit.crypto.lattice.cipher import encrypt
from tacit.crypto.lattice.sets import SETS, SMALL, Lattice
from tacit.crypto.secagg import client
from tacit.crypto.secagg.clear import Clear
from tacit.crypto.secagg.messages import AttestRequest, RevealRequest
from tacit.crypto.secagg.revealing import Revealing
from tacit.crypto.secagg.server import Attesting, Collecting
from tacit.crypto.secagg.session import Session
from tacit.crypto.wire import Reader, Writer
from tests.crypto.federation import Counted, Federation
from tests.vectors.capsules import Exchanged

HERE = Path(__file__).parent
SUMS = ("sessions.json", "encrypted.json", "hybrid.json")
FILES = (*SUMS, "ciphertexts.json", "refused.json")
STEP = 0x9E3779B97F4A7C15  # of the elements of a ciphertext's vector: element i is i * STEP >> 16

Json = dict[str, Any]


class Case:
    """One sum, run to its end, every message of it kept."""

    def __init__(
        self,
        name: str,
        codec: Codec,
        silent: tuple[int, ...],
        *,
        seats: int = 0,
        hybrid: bool = False,
        **changed: Any,
    ) -> None:
        self.name = name
        # Where a committee is drawn, two devices are enrolled that are not in the cohort.
        size, rand = codec.clients + 2 * bool(seats), Counted(name.encode())
        self.crew = Federation(size, rand, hybrid=hybrid)
        self.exchanged = Exchanged(self.crew) if hybrid else None
        keys = tuple(self.crew.keys.values())
        cohort, others = keys[: codec.clients], keys[codec.clients :]
        drawn = self.crew.roster.drawn(seats) if seats else tuple(key.device for key in cohort)
        witnesses = tuple(key for key in others if key.device in drawn)
        settings = {"cohort": cohort, "witnesses": witnesses, "committee": drawn, "seats": seats}
        self.session = self.crew.session(codec, **(settings | changed))
        self.survivors = tuple(d for d in self.session.devices if d not in silent)
        present = {*self.survivors, *(key.device for key in witnesses)}
        self.members = tuple(m for m in self.session.committee if m in present)
        self.rands: dict[int, tuple[bytes, bytes]] = {}
        self.encoded: dict[int, Ring] = {}
        self.inputs: dict[int, tuple[list[float], list[float], float]] = {}
        self.shown: dict[int, list[int]] = {}
        self.states: dict[int, client.Reported] = {}
        self.reports: dict[int, bytes] = {}
        for device in self.survivors:
            self._report(device)
        for key in witnesses:
            self.states[key.device] = client.witness(self.crew.enrolled[key.device], self.session)
        attesting = self.attesting()
        self.requests = {m: attesting.request(m).encode(self.session) for m in self.members}
        self.attested: dict[int, client.Attested] = {}
        self.attestations: dict[int, bytes] = {}
        for member, data in self.requests.items():
            request = AttestRequest.decode(data, self.session)
            self.attested[member], said = self.crew.attested(
                self.session, self.states[member], request
            )
            self.attestations[member] = said.encode()
        revealing = self.revealing()
        self.reveal = revealing.request().encode()
        asked = RevealRequest.decode(self.reveal, self.session)
        self.shares = {
            member: client.reveal(state, self.crew.roster, asked).encode()
            for member, state in self.attested.items()
        }
        for member, data in self.shares.items():
            revealing.add(data, sender=member)
        self.opened = revealing.open(bytes(32))
        # A masked sum is opened where it stands; of ciphertexts the sum stays what it was.
        summed = np.sum(list(self.encoded.values()), axis=0, dtype=codec.dtype)
        self.total: Ring = summed if self.session.lattice else revealing.closed.total

    def _report(self, device: int) -> None:
        session, codec = self.session, self.session.codec
        # Some are negative where that is another matter.
        signs = (1, -1) if session.lattice else (1, 1)
        update = [signs[k % 2] * (device + k / 4) for k in range(codec.length)]
        metrics, weight = [0.5 * device], 10.0 * device
        self.inputs[device] = (update, metrics, weight)
        rounding, masking = self.crew.rand(KEY_BYTES), self.crew.rand(client.REPORT_RAND_BYTES)
        self.rands[device] = (rounding, masking)
        self.encoded[device] = codec.encode(np.array(update), np.array(metrics), weight, rounding)
        size = 0 if session.clear is None else session.clear.size
        self.shown[device] = [(-1) ** k * (997 * device + k) for k in range(size)]
        self.states[device], report = client.report(
            self.crew.enrolled[device],
            self.crew.identities[device],
            session,
            self.crew.agreed(session, device),
            self.encoded[device].copy(),
            ("loss",),
            bytes(32),
            masking,
            clear=np.array(self.shown[device]) if size else None,
        )
        self.reports[device] = report.encode(session)

    def collecting(self, without: int = 0) -> Collecting:
        collecting = Collecting(self.session, self.crew.roster)
        for device, data in self.reports.items():
            if device != without:
                collecting.add(data, sender=device)
        return collecting

    def attesting(self) -> Attesting:
        return self.collecting().close()

    def revealing(self) -> Revealing:
        attesting = self.attesting()
        for member, data in self.attestations.items():
            attesting.add(data, sender=member)
        return attesting.close()

    def messages(self) -> dict[str, bytes]:
        """One message of each kind: the first device's."""
        first = self.members[0]
        key = Writer()
        self.crew.keys[first].write(key)
        capsules = {} if self.exchanged is None else self.exchanged.messages()
        return {
            **capsules,
            "roster": self.crew.roster.encode(),
            "run key": key.data(),
            "session": self.session.encode(),
            "report": self.reports[first],
            "attest request": self.requests[first],
            "attestation": self.attestations[first],
            "reveal request": self.reveal,
            "shares": self.shares[first],
        }

    def outcome(self, kind: str, data: bytes) -> str:
        """What becomes of the bytes `data` in the place of a message: the name of an error,
        "another session", "bad [dealers]", or "accepted"."""
        try:
            return self._taken(kind, data)
        except TacitError as refused:
            return type(refused).__name__

    def _taken(self, kind: str, data: bytes) -> str:
        crew, session, first = self.crew, self.session, self.members[0]
        match kind:
            case "roster":
                Roster.decode(data).verify(crew.authority.public)
            case "run key":
                reader = Reader(data, sender=first, stage="enrol")
                key = RunKey.read(reader)
                reader.end()
                key.verify(session.run, crew.identities[first].public)
            case "session":
                return "accepted" if Session.decode(data).id == session.id else "another session"
            case "report":
                self.collecting(without=first).add(data, sender=first)
            case "attest request":
                request = AttestRequest.decode(data, session)
                said = crew.attested(session, self.states[first], request)[1]
                if said.bad:
                    return f"bad {list(said.bad)}"
                if said.encode() != self.attestations[first]:
                    return "another set"
            case "attestation":
                self.attesting().add(data, sender=first)
            case "reveal request":
                asked = RevealRequest.decode(data, session)
                client.reveal(self.attested[first], crew.roster, asked)
            case "shares":
                self._open(data)
            case _:
                assert self.exchanged is not None
                self.exchanged.take(kind, data)
        return "accepted"

    def _open(self, data: bytes) -> None:
        """Open the sum, with `data` as the first member's shares. Raises ProtocolError if they are
        found wrong."""
        revealing, first = self.revealing(), self.members[0]
        for member, theirs in self.shares.items():
            revealing.add(data if member == first else theirs, sender=member)
        with suppress(TooFewClients):  # of those that are left
            revealing.open(bytes(32))
        for member, reason in revealing.refuted.items():
            raise ProtocolError(reason, sender=member, stage="reveal")


def cases() -> dict[str, list[Case]]:
    """The sums of each file."""
    return dict(zip(SUMS, (masked(), encrypted(), hybrid()), strict=True))


def encrypted() -> list[Case]:
    return [
        Case(
            "an encrypted sum, one of four is silent",
            Codec(3, 4, 1, bits=20),
            (2,),
            lattice=SMALL.name,
            degree=0,
            committee=(1, 3, 4),
            threshold=2,
        ),
    ]


def hybrid() -> list[Case]:
    return [
        Case("a hybrid run, one of three is silent", Codec(2, 3, 1, bits=24), (3,), hybrid=True)
    ]


def masked() -> list[Case]:
    return [
        Case("one of four is silent", Codec(3, 4, 1, max_weight=100.0, bits=26), (2,)),
        Case("nobody is silent", Codec(5, 3, 2, bits=40), ()),
        Case(
            "two of five on the committee are silent",
            Codec(1, 5, 1, bits=32),
            (1, 4),
            committee=(1, 2, 3, 5),
            threshold=3,
        ),
        Case(
            "a graph of degree three",
            Codec(4, 9, 1, bound=16.0, bits=21),
            (3, 7),
            degree=3,
            threshold=5,
        ),
        Case("a drawn committee", Codec(2, 5, 1, bits=24), (2,), degree=2, seats=5, threshold=3),
        Case(
            "a part is in the clear",
            Codec(3, 3, 1, bits=30),
            (1,),
            clear=Clear(((0, 2), (3, 7)), 1.5, 2.25),
        ),
    ]


def session_vector(case: Case) -> Json:
    """Everything another implementation needs to make the same bytes."""
    crew, session, codec = case.crew, case.session, case.session.codec
    devices = []
    for device in crew.devices:
        key = Writer()
        crew.keys[device].write(key)
        devices.append(
            {
                "device": device,
                "identity secret": crew.identities[device].secret.hex(),
                "identity public": crew.identities[device].public.hex(),
                "run secret": crew.enrolled[device].secret.hex(),
                "run key": key.data().hex(),
            }
        )
    reports = []
    for device, data in case.reports.items():
        update, metrics, weight = case.inputs[device]
        rounding, masking = case.rands[device]
        reports.append(
            {
                "device": device,
                "update": update,
                "metrics": metrics,
                "weight": weight,
                "rounding rand": rounding.hex(),
                "clear": case.shown[device],
                "encoded": [int(value) % (1 << codec.bits) for value in case.encoded[device]],
                "rand": masking.hex(),
                "bytes": data.hex(),
            }
        )
    mean = case.opened.mean
    return {
        **({} if case.exchanged is None else case.exchanged.vector()),
        "name": case.name,
        "authority public": crew.authority.public.hex(),
        "roster": crew.roster.encode().hex(),
        "roster digest": crew.roster.digest().hex(),
        "devices": devices,
        "session": session.encode().hex(),
        "session id": session.id.hex(),
        "cohort digest": session.cohort_digest.hex(),
        "metrics": list(case.opened.metrics),
        "scale": codec.scale,
        "metric scale": codec.metric_scale,
        "limb": codec.limb,
        "weight scale": codec.weight_scale,
        "reports": reports,
        "attest": [
            {
                "member": member,
                "request": case.requests[member].hex(),
                "attestation": case.attestations[member].hex(),
            }
            for member in case.members
        ],
        "reveal request": case.reveal.hex(),
        "shares": [{"member": m, "bytes": data.hex()} for m, data in case.shares.items()],
        "survivors": list(case.opened.survivors),
        "total": [int(value) % (1 << codec.bits) for value in case.total],
        "clear total": np.sum(list(case.shown.values()), axis=0).astype(int).tolist(),
        "mean update": mean.update.tolist(),
        "mean metrics": mean.metrics.tolist(),
        "total weight": mean.weight,
    }


def edits(data: bytes) -> Iterator[Json]:
    """A bit flipped at 24 places spread over the message, its end cut off, a byte too many."""
    for k in range(24):
        at = k * (len(data) - 1) // 23
        yield {"flip": [at, 1 << (k % 8)]}
    yield {"keep": len(data) - 1}
    yield {"keep": 0}
    yield {"append": "00"}


def edited(data: bytes, edit: Json) -> bytes:
    """`data` after one of the edits of refused.json."""
    if "flip" in edit:
        at, bit = edit["flip"]
        return data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :]
    return data[: edit["keep"]] if "keep" in edit else data + bytes.fromhex(edit["append"])


# Of the first sum of each file, the messages of which some bytes are changed: all of a masked sum,
# and those that are others in the other kinds.
CHANGED = {
    FILES[1]: ("session", "report", "attest request", "shares"),
    FILES[2]: ("run key", "encapsulate request", "encapsulated", "decapsulate request"),
}


def refused_vector(case: Case, kinds: Collection[str]) -> Iterator[Json]:
    """What must not be accepted; raises AssertionError if anything is."""
    messages = case.messages()
    for kind, data in ((kind, messages[kind]) for kind in kinds):
        for edit in edits(data):
            outcome = case.outcome(kind, edited(data, edit))
            # Who else is called bad by an attestation is not signed: see README.md.
            assert outcome != "accepted", (case.name, kind, edit)
            yield {"session": case.name, "message": kind, **edit, "outcome": outcome}


def rendered(what: Callable[[], Any]) -> str:
    return json.dumps(what(), indent=1) + "\n"


def ciphertext_vector(lattice: Lattice) -> Json:
    """One vector of a block and a bit, alone: the arithmetic of a set, block after block."""
    count = lattice.fields * lattice.degree + 2 * lattice.fields - (lattice.fields > 1)
    rand = Counted(lattice.name.encode())
    seed, of_key, of_errors = rand(KEY_BYTES), rand(KEY_BYTES), rand(KEY_BYTES)
    values = (np.arange(1, count + 1, dtype=np.uint64) * np.uint64(STEP)) >> np.uint64(16)
    key = lattice_keys.draw(lattice.degree, lattice.secret, of_key)
    words = encrypt(lattice, seed, key, of_errors, values.astype(lattice.ring))
    return {
        "set": lattice.name,
        "degree": lattice.degree,
        "word": lattice.word,
        "fields": lattice.fields,
        "bits": lattice.bits,
        "width": lattice.error,
        "length": count,
        "public seed": seed.hex(),
        "key seed": of_key.hex(),
        "error seed": of_errors.hex(),
        "key": hashlib.sha256(key.tobytes()).hexdigest(),
        "ends": [int(words[at]) for at in (0, 1, -2, -1)],
        "ciphertext": hashlib.sha256(words.tobytes()).hexdigest(),
    }


def generated() -> dict[str, str]:
    """The content of each file."""
    every = cases()
    files = {
        name: rendered(lambda of=of: [session_vector(case) for case in of])
        for name, of in every.items()
    }
    files[FILES[3]] = rendered(lambda: [ciphertext_vector(lattice) for lattice in SETS.values()])
    kinds = {FILES[0]: every[FILES[0]][0].messages(), **CHANGED}
    files[FILES[4]] = rendered(
        lambda: [e for name, of in every.items() for e in refused_vector(of[0], kinds[name])]
    )
    return files


if __name__ == "__main__":
    for name, content in generated().items():
        (HERE / name).write_text(content, "utf-8")
