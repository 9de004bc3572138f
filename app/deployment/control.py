"""Flower's Control interface, as SuperLink 1.41 has it on the loopback: nodes in, runs begun.

The one place that knows the client of `flwr.supercore.control`. It asks nobody who they are, so it
is for the supervisor, and never leaves this machine: see `tacit.server.front`.
"""

import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)
from flwr.common.serde import user_config_from_proto, user_config_to_proto
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
    UnregisterNodeRequest,
)
from flwr.proto.fab_pb2 import Fab
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

from tacit.app.config import Scalar
from tacit.app.deployment import bundle
from tacit.crypto.errors import ParameterError, TacitError
from tacit.crypto.nodekey import compressed, public_key

TIMEOUT = 10.0  # seconds; the supervisor does nothing else meanwhile
NAME = "run.name"
RECENT = 200  # runs to look at


class Unreachable(TacitError):
    """SuperLink does not answer."""


class NotDone(TacitError):
    """SuperLink answers, and did not do it."""


@dataclass(frozen=True, slots=True)
class FlowerNode:
    """A node that SuperLink knows: its key as a roster has it, and registered, online, offline or
    unregistered."""

    number: int
    name: str
    key: bytes
    status: str

    @property
    def is_online(self) -> bool:
        return self.status == "online"


@dataclass(frozen=True, slots=True)
class FlowerRun:
    """A run as Flower sees it: whether it is over there, how it ended, and what it said."""

    number: int
    name: str
    is_over: bool
    how: str
    details: str


@dataclass(slots=True)
class Control:
    """A connection to SuperLink. Every call raises Unreachable, or NotDone with the reason."""

    address: str
    ca: Path
    _client: ControlHttpClient | None = field(default=None, repr=False)

    def nodes(self) -> list[FlowerNode]:
        """All that are registered."""
        with self._asking() as client:
            found = client.ListNodes(ListNodesRequest()).nodes_info
        return [
            FlowerNode(each.node_id, each.name, _key(each.public_key), each.status)
            for each in found
            if each.status != "unregistered"
        ]

    def register(self, name: str, key: bytes) -> None:
        """Let a node in; `key` is its compressed public key."""
        pem = public_key(key).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        with self._asking() as client:
            client.RegisterNode(RegisterNodeRequest(public_key=pem, name=name))

    def unregister(self, node: FlowerNode) -> None:
        """Let a node in no more."""
        with self._asking() as client:
            client.UnregisterNode(UnregisterNodeRequest(node_id=node.number))

    def begin(self, settings: Mapping[str, Scalar]) -> int:
        """Start a run of this version's bundle; Flower's number of it."""
        content = bundle.build()
        request = StartRunRequest(
            fab=Fab(hash_str=bundle.digest(content), content=content),
            override_config=user_config_to_proto(dict(settings)),
        )
        with self._asking() as client:
            answer = client.StartRun(request)
        if not answer.HasField("run_id"):
            raise NotDone("SuperLink did not start the run: its log says why")
        return int(answer.run_id)

    def stop(self, number: int) -> None:
        """End a run, if it is not over."""
        try:
            with self._asking() as client:
                client.StopRun(StopRunRequest(run_id=number))
        except NotDone:
            if not self.run(number).is_over:
                raise

    def runs(self) -> list[FlowerRun]:
        """The last of them, newest first."""
        with self._asking() as client:
            found = client.ListRuns(ListRunsRequest(limit=RECENT)).run_dict.values()
        return [_run(each) for each in sorted(found, key=lambda each: each.pending_at)][::-1]

    def run(self, number: int) -> FlowerRun:
        """One of them."""
        with self._asking() as client:
            found = client.ListRuns(ListRunsRequest(run_id=number)).run_dict
        if number not in found:
            raise NotDone(f"SuperLink knows no run {number}")
        return _run(found[number])

    def close(self) -> None:
        """Hang up; the next call connects anew."""
        if self._client is not None:
            self._client.close()
            self._client = None

    @contextmanager
    def _asking(self) -> Iterator[ControlHttpClient]:
        try:
            if self._client is None:
                self._client = ControlHttpClient(
                    f"https://{self.address}",
                    interceptors=[RuntimeVersionHttpInterceptor(component_name="tacit")],
                    verify=ssl.create_default_context(cafile=self.ca),
                    timeout=TIMEOUT,
                )
            yield self._client
        except httpx.HTTPStatusError as refused:
            raise NotDone(_reason(refused.response)) from None
        except (httpx.HTTPError, OSError) as gone:
            self.close()
            raise Unreachable(
                f"SuperLink does not answer at {self.address}: {type(gone).__name__}"
            ) from None


def _run(found: object) -> FlowerRun:
    name = user_config_from_proto(found.override_config).get(NAME, "")  # type: ignore[attr-defined]
    status = found.status  # type: ignore[attr-defined]
    return FlowerRun(
        int(found.run_id),  # type: ignore[attr-defined]
        str(name),
        status.status == "finished",
        status.sub_status,
        status.details,
    )


def _key(pem: bytes) -> bytes:
    """As a roster has it; empty for a key of another kind, which no roster has."""
    try:
        found = load_pem_public_key(pem)
        if isinstance(found, ec.EllipticCurvePublicKey):
            return compressed(found)
    except (ValueError, ParameterError):
        pass
    return b""


def _reason(response: httpx.Response) -> str:
    try:
        said = response.json()
        return str(said.get("detail") or said.get("message") or said)
    except (ValueError, AttributeError):
        return f"HTTP {response.status_code}"
