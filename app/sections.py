"""The sections of a run's settings, and what each makes of its keys: a plan, a policy, a sum."""

import re
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from tacit.app import trackers
from tacit.client.policy import Policy
from tacit.client.private_trainer import reach
from tacit.client.trainer import LocalPlan
from tacit.crypto.errors import ParameterError
from tacit.crypto.mark import Signs, Triggers
from tacit.crypto.secagg.noised import MOST_BANDS
from tacit.privacy.ledger import Budget
from tacit.server.auto import Auto
from tacit.server.encrypted import Encrypted
from tacit.server.pairwise import Pairwise, SecureSum
from tacit.server.private import (
    Adaptive,
    Central,
    Distributed,
    Local,
    OnDevice,
    Privacy,
    noise_for,
)
from tacit.server.tenseal import TenSeal
from tacit.server.turns import Turns
from tacit.simulations.data.partition import Partition, parse


class Section(BaseModel):
    """Of settings: frozen, and no key but those that it has."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Run(Section):
    """How long, and how it is run."""

    rounds: int = Field(20, ge=1, le=100_000, description="rounds of training")
    seed: int = Field(0, ge=0, lt=2**32, description="repeats partition, training and sampling")
    mode: Literal["sync", "threads", "processes"] = Field(
        "sync", description="sync is deterministic; the others use several cores"
    )
    workers: int = Field(0, ge=0, le=1024, description="threads or processes; 0 is one per core")
    timeout: float = Field(600.0, gt=0, description="seconds for the devices to train in a round")
    name: str = Field(
        "", pattern=r"^([a-z0-9][a-z0-9-]{0,62})?$",
        description="of a deployed run: it goes on under this name after an interruption",
    )  # fmt: skip
    track: str = Field(
        "",
        description="trackers that the run is told to, by commas: tensorboard:DIR, mlflow:DIR, "
        "wandb:PROJECT",
    )
    keep_seen: int = Field(
        1, ge=0, description="rounds whose updates, as the server saw them, are kept for attacks"
    )

    @field_validator("track")
    @classmethod
    def _trackers(cls, value: str) -> str:
        trackers.parse(value)
        return value


class Data(Section):
    """What the devices learn from, and how it is spread over them."""

    name: str = Field("digits", description="a built-in set, npz:PATH, folder:PATH, hub:NAME, or "
                      "package.module:function")  # fmt: skip
    root: str = Field(
        "", description="folder of data sets by name; empty is the variable TACIT_DATA"
    )
    devices: int = Field(
        10, ge=2, le=100_000, description="how many take part; one alone would be no sum"
    )
    partition: str = Field("dirichlet:0.5", description="iid, dirichlet:A, shards:N or sites")
    hold_out: float = Field(
        0.1, ge=0, lt=1, description="share of a device's examples kept for its evaluation"
    )
    min_examples: int = Field(4, ge=1, description="fewest examples a device may get")
    limit: int = Field(0, ge=0, description="most examples a device uses; 0 is all it has")

    @field_validator("partition")
    @classmethod
    def _known(cls, value: str) -> str:
        parse(value)
        return value

    @property
    def how(self) -> Partition:
        """The partition, parsed."""
        return parse(self.partition)


class Model(Section):
    """What is trained."""

    name: str = Field("mlp", description="softmax, mlp, mlp:256,64, cnn, lenet, "
                      "smooth-cnn, bn-cnn, resnet, transformer, or "
                      "package.module:factory")  # fmt: skip
    backend: Literal["auto", "torch", "numpy"] = Field(
        "auto", description="auto takes torch where it is installed"
    )


class Train(Section):
    """How a device trains in one round."""

    epochs: int = Field(2, ge=1, le=10_000, description="passes over the device's examples")
    batch_size: int = Field(16, ge=0, description="examples per step; 0 is all at once")
    learning_rate: float = Field(0.1, gt=0, le=100, description="step size of SGD")
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of SGD")
    weight_decay: float = Field(0.0, ge=0, le=1, description="L2 penalty")

    def plan(self, *, seed: int, proximal_mu: float) -> LocalPlan:
        """The plan of one device in one round."""
        return LocalPlan(
            self.epochs,
            self.batch_size,
            self.learning_rate,
            self.momentum,
            self.weight_decay,
            proximal_mu,
            seed,
        )


class StrategySettings(Section):
    """Which of Flower's strategies turns mean updates into the next model."""

    name: Literal[
        "fedavg",
        "fedprox",
        "fedavgm",
        "fedadam",
        "fedyogi",
        "fedadagrad",
        "fedmedian",
        "fedtrimmedavg",
    ] = Field(
        "fedavg",
        description="one that needs only the mean; fedmedian and fedtrimmedavg stand up to a few "
        "hostile devices, and take secure.groups",
    )
    fraction_train: float = Field(1.0, gt=0, le=1, description="share of devices in a round")
    fraction_evaluate: float = Field(1.0, ge=0, le=1, description="share of devices evaluated on")
    learning_rate: float = Field(
        0.0, ge=0, le=100, description="the server's step size; 0 is the strategy's own default"
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="the server's momentum (fedavgm)")
    proximal_mu: float = Field(0.1, ge=0, description="pull towards the sent model (fedprox)")
    trim: float = Field(
        0.2, ge=0, lt=0.5, description="share that is cut off at either end (fedtrimmedavg)"
    )


class Secure(Section):
    """The secure sum; what a device refuses of it is under [policy]."""

    protocol: Literal["pairwise", "lattice", "auto", "tenseal", "plain"] = Field(
        "pairwise",
        description="masks in pairs, one-time lattice keys, or auto: the cheaper where "
        "policy.lattice allows both; tenseal: a key that all devices hold; plain shows the server "
        "every update",
    )
    parameters: str = Field(
        "", description="parameter set of an encrypted sum; empty is the default"
    )
    precision: int = Field(
        25, ge=8, le=52, description="bits of one device's coordinate; a sum takes a few more"
    )
    bound: float = Field(8.0, gt=0, description="largest size of a coordinate of an update")
    max_weight: float = Field(10_000.0, gt=0, description="most examples a device may count for")
    min_survivors: int = Field(
        0, ge=0, description="fewest reports a sum is opened over; 0 is the threshold"
    )
    corrupt: float = Field(
        1 / 3, ge=0, lt=1, description="share of the devices that may collude with the server"
    )
    drop: float = Field(
        0.3, ge=0, lt=1, description="share that may fall silent in a cohort of more than 32"
    )
    degree: int = Field(
        0, ge=0, description="neighbours that a device masks against; 0 is as many as it takes"
    )
    seats: int = Field(
        0, ge=0, le=255, description="committee drawn from the roster; 0 is what it takes"
    )
    hybrid: bool = Field(
        False, description="ML-KEM beside X25519, against a later quantum computer"
    )
    stage_deadline: float = Field(60.0, gt=0, description="seconds for each stage but training")
    groups: int = Field(
        0,
        ge=0,
        le=1000,
        description="groups at random, each with a secure sum of its own, for a strategy that "
        "compares them: an update hides among its group; 0: all are in one sum",
    )
    hostile: int = Field(
        0,
        ge=0,
        le=499,
        description="hostile devices that a round stands up to, by its groups; 0 is as many as "
        "can be",
    )
    regroup: bool = Field(
        False, description="draw groups anew in each round: the server can solve their sums"
    )
    clear: str = Field(
        "",
        description="arrays sent in the clear, as in fc0.*,*.bias: see policy.clear_epsilon",
    )
    clear_norm: float = Field(
        1.0, gt=0, description="L2 norm to which a device clips what it sends in the clear"
    )
    clear_noise: float = Field(
        4.0, gt=0, description="deviation of the noise on it, in multiples of that norm"
    )

    def sum(self, *, lattice: bool) -> SecureSum:
        """The protocol's parameters. `auto` may take lattice keys if devices allow `lattice`."""
        common: dict[str, Any] = {
            "bound": self.bound,
            "max_weight": self.max_weight,
            "corrupt": self.corrupt,
            "drop": self.drop,
            "min_survivors": self.min_survivors or None,
            "seats": self.seats or None,
            "hybrid": self.hybrid,
            "stage_deadline": self.stage_deadline,
            "clear": _listed(self.clear),
            "clear_norm": self.clear_norm,
            "clear_noise": self.clear_noise,
        }
        named: dict[str, Any] = {"parameters": self.parameters} if self.parameters else {}
        if self.protocol == "lattice":
            return Encrypted(**named, **common)
        if self.protocol == "tenseal":
            return TenSeal(**named, **{**common, "seats": self.seats})
        masks: dict[str, Any] = {"precision": self.precision, "degree": self.degree or None}
        if self.protocol == "auto" and lattice:
            return Auto(**named, **masks, **common)
        return Pairwise(**masks, **common)


class PrivacySettings(Section):
    """Differential privacy of the sums; what a device asks for is under [policy]."""

    mode: Literal["none", "local", "distributed", "central"] = Field(
        "none",
        description="distributed: devices share the noise; local: each adds all of it (to each "
        "step of DP-SGD, for unit = record); central: the server does. With any, devices neither "
        "evaluate nor send metrics",
    )
    unit: Literal["client", "record"] = Field(
        "client", description="whom it protects: a device, or each example on it"
    )
    epsilon: float = Field(8.0, gt=0, le=700, description="what the run may cost a device")
    delta: float = Field(1e-5, gt=0, lt=1, description="at which delta")
    noise: float = Field(
        0.0, ge=0, description="noise in units of the clip; 0 is what makes epsilon last"
    )
    clip: float = Field(1.0, gt=0, description="largest L2 norm of an update, or of an example's")
    quantile: float = Field(
        0.0, ge=0, lt=1, description="share of updates that the clip should let be; 0: it stays"
    )
    rate: float = Field(0.2, gt=0, le=10, description="how fast the clip follows that")
    tolerance: float = Field(
        0.01, gt=0, le=100, description="variance that rounding may add: more of it, fewer bits"
    )
    sketch: float = Field(
        0.0, ge=0, description="error that shorter vectors may add, in terms of the noise; 0: none"
    )
    batch: int = Field(
        16,
        ge=1,
        le=1 << 18,
        description="what a sum over a device's examples is divided by: as many as are expected, "
        "and no count of its own (record)",
    )
    draw: float = Field(
        1.0, gt=0, le=1, description="chance of each example to be in a batch (record)"
    )
    steps: int = Field(
        1, ge=1, le=256, description="steps of DP-SGD on a device in a round (local, record)"
    )
    bands: int = Field(
        0, ge=0, le=MOST_BANDS, description="rounds over which noise is taken back in part "
        "(central); 0: it is independent",
    )  # fmt: skip
    cohorts: int = Field(
        0, ge=0, le=50_000, description="cohorts that take turns, where there are bands; 0: "
        "as many as bands",
    )  # fmt: skip

    def of(self, rounds: int, devices: int, learning_rate: float) -> Privacy | None:
        """How sums are made private in a run of so many rounds, with so many devices and steps of
        this size; None: they are not."""
        turns = self._turns(rounds, devices)
        if self.mode == "none":
            return None
        adaptive = Adaptive(self.quantile, self.rate) if self.quantile else None
        times = (rounds if turns is None else turns.most(rounds)) * self.steps
        noise = self.noise or noise_for(
            self.epsilon, self.delta, times, adaptive=adaptive is not None
        )
        given: dict[str, Any] = {
            "clip": self.clip,
            "noise": noise,
            "budget": Budget(self.epsilon, self.delta),
            "tolerance": self.tolerance,
            "sketch": self.sketch,
            # A batch may be larger than expected: what is beyond this many is scaled down.
            "records": 4 * self.batch if self.unit == "record" else 0,
            "adaptive": adaptive,
        }
        if self.unit == "record" and self.mode == "local":
            return OnDevice(**given, steps=self.steps, rate=self.draw)
        if self.unit == "record":
            given["clip"] = reach(self.clip, self.factor(learning_rate))
        if self.mode == "central":
            return Central(**given, turns=turns)
        return Distributed(**given) if self.mode == "distributed" else Local(**given)

    def factor(self, learning_rate: float) -> float:
        """What a sum of gradients is multiplied with, for a step of SGD."""
        return learning_rate / self.batch

    def _turns(self, rounds: int, devices: int) -> Turns | None:
        if not self.bands and not self.cohorts:
            return None
        if self.mode != "central":
            raise ParameterError(
                f"privacy.bands and privacy.cohorts mean nothing with privacy.mode = {self.mode}: "
                "only a server that adds the noise can take it back"
            )
        if self.bands > rounds:
            raise ParameterError(
                f"privacy.bands = {self.bands} in run.rounds = {rounds}: more bands than rounds"
            )
        return Turns(self.bands, self.cohorts or self.bands, devices)


class PolicySettings(Section):
    """What simulated devices agree to. A deployed device keeps its own, out of a server's reach."""

    min_cohort: int = Field(3, ge=2, description="fewest devices to be summed with")
    min_survivors: int = Field(3, ge=2, description="fewest reports a sum may be opened over")
    corrupt: float = Field(
        1 / 3, ge=0, lt=1, description="share of the cohort that a device takes for colluders"
    )
    security: int = Field(
        40, ge=0, description="drop-outs may cut the graph of masks with chance 2**-security"
    )
    min_bits: int = Field(16, ge=8, le=62, description="narrowest ring that a sum may be in")
    max_norm: float = Field(0.0, ge=0, description="largest L2 norm of an update; 0 is any")
    hybrid: bool = Field(False, description="no sum without ML-KEM: see secure.hybrid")
    lattice: bool = Field(False, description="sums under lattice keys too: see secure.protocol")
    consortium: bool = Field(
        False, description="sums under a key that all devices hold: one in league opens all"
    )
    clear_epsilon: float = Field(
        0.0,
        ge=0,
        le=700,
        description="most epsilon, in a device's life, for arrays in the clear; 0 is none",
    )
    epsilon: float = Field(
        0.0,
        ge=0,
        le=700,
        description="most epsilon, in a device's life, for all sums; 0 asks for no noise",
    )
    delta: float = Field(1e-5, gt=0, lt=1, description="at which delta, for both")
    unit: Literal["client", "record"] = Field(
        "client", description="whom noise has to protect: see privacy.unit"
    )
    trust_server: bool = Field(
        False, description="whether noise that the server promises to add will do"
    )
    keep: float = Field(
        1.0, gt=0, le=1, description="share of an update's coordinates, the largest, that are sent"
    )
    models: str = Field(
        "",
        description="fingerprints of the models to work with, as `tacit explain model` prints "
        "them, by commas; empty is any",
    )

    @field_validator("models")
    @classmethod
    def _fingerprints(cls, value: str) -> str:
        Policy(models=_listed(value))
        return value

    def policy(self, *, plain: bool) -> Policy:
        """The devices' policy. `plain` devices answer outside secure sums too."""
        return Policy(
            self.min_cohort,
            self.min_survivors,
            self.corrupt,
            self.security,
            self.min_bits,
            max_norm=self.max_norm or None,
            plain=plain,
            hybrid=self.hybrid,
            lattice=self.lattice,
            consortium=self.consortium,
            clear_epsilon=self.clear_epsilon,
            epsilon=self.epsilon or None,
            delta=self.delta,
            unit=self.unit,
            trust_server=self.trust_server,
            keep=self.keep,
            models=_listed(self.models),
        )


class Mark(Section):
    """Marks of ownership; what is committed to before the first round is in the audit log."""

    key: str = Field(
        "", description="file of the owner's key, on the server; empty puts no triggers in models"
    )
    triggers: int = Field(100, ge=10, le=10_000, description="inputs that only its holder knows")
    bits: int = Field(
        0, ge=0, le=1024, description="bits that each device signs the model with; 0: none"
    )
    array: str = Field("", description="where devices sign; empty is the model's largest array")
    weight: float = Field(
        5.0, gt=0, le=1000, description="how hard devices pull at it, beside their loss"
    )
    commitments: str = Field(
        "",
        description="to the devices' keys, as `tacit mark commit` prints them, by commas; those of "
        "simulated devices are known",
    )

    @field_validator("commitments")
    @classmethod
    def _digests(cls, value: str) -> str:
        for each in _listed(value):
            if not re.fullmatch(r"[0-9a-f]{64}", each):
                raise ParameterError("a commitment is 64 hexadecimal digits, in small letters")
        return value

    @property
    def committed(self) -> tuple[str, ...]:
        """The commitments, one by one."""
        return _listed(self.commitments)

    @property
    def by_server(self) -> Triggers:
        return Triggers(self.triggers)

    @property
    def by_devices(self) -> Signs | None:
        """None: devices do not sign."""
        return Signs(self.bits, self.array) if self.bits else None


def _listed(text: str) -> tuple[str, ...]:
    """The parts of a text between commas, but for empty ones."""
    return tuple(part.strip() for part in text.split(",") if part.strip())
