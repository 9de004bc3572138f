"""Flower lets in the roster's nodes, and nobody else."""

import os
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from tacit.app.deployment.control import FlowerNode
from tacit.app.deployment.nodes import apply, changes
from tacit.crypto.answers import Node
from tacit.crypto.nodekey import RAND_BYTES, NodeKey
from tacit.server.deployed import NodeRegistered, NodeUnregistered

KEYS = [NodeKey(os.urandom(RAND_BYTES)).public for _ in range(6)]
NODES = [Node(number + 1, f"site-{number + 1}", key) for number, key in enumerate(KEYS)]


@dataclass
class Flower:
    """SuperLink's list of nodes."""

    known: list[FlowerNode] = field(default_factory=list)
    breaks_after: int = 1000
    calls: list[str] = field(default_factory=list)

    def nodes(self) -> list[FlowerNode]:
        return list(self.known)

    def register(self, name: str, key: bytes) -> None:
        self.called("register")
        self.known.append(FlowerNode(len(self.known) + 1, name, key, "registered"))

    def unregister(self, node: FlowerNode) -> None:
        self.called("unregister")
        self.known.remove(node)

    def called(self, what: str) -> None:
        self.calls.append(what)
        self.breaks_after -= 1
        if self.breaks_after < 0:
            raise ConnectionError


def there(*numbers: int) -> list[FlowerNode]:
    return [FlowerNode(100 + n, f"old-{n}", KEYS[n], "online") for n in numbers]


SUBSETS = st.sets(st.integers(0, len(KEYS) - 1))


@given(SUBSETS, SUBSETS)
def test_afterwards_the_nodes_are_the_rosters(wanted: set[int], known: set[int]) -> None:
    flower = Flower(there(*known))
    apply(flower, [NODES[n] for n in wanted])
    assert {node.key for node in flower.known} == {KEYS[n] for n in wanted}
    assert apply(flower, [NODES[n] for n in wanted]) == []


@given(SUBSETS, SUBSETS, st.integers(0, 6))
def test_what_was_cut_off_is_gone_on_with(wanted: set[int], known: set[int], calls: int) -> None:
    flower = Flower(there(*known), breaks_after=calls)
    nodes = [NODES[n] for n in wanted]
    try:
        apply(flower, nodes)
    except ConnectionError:
        assert not {node.key for node in flower.known} - {KEYS[n] for n in wanted | known}
    flower.breaks_after = 1000
    apply(flower, nodes)
    assert {node.key for node in flower.known} == {KEYS[n] for n in wanted}


def test_a_name_is_not_a_node() -> None:
    impostor = FlowerNode(9, NODES[0].name, KEYS[1], "online")
    found = changes([NODES[0]], [impostor])
    assert (found.register, found.unregister) == ((NODES[0],), (impostor,))


def test_a_key_of_another_kind_is_put_out() -> None:
    stranger = FlowerNode(9, "x", b"", "online")
    assert changes(NODES, [stranger]).unregister == (stranger,)


def test_what_was_done_is_told() -> None:
    flower = Flower(there(1))
    told = apply(flower, [NODES[0]])
    assert flower.calls == ["unregister", "register"], "who is out goes first"
    assert told == [
        NodeUnregistered("old-1", KEYS[1].hex()),
        NodeRegistered("site-1", KEYS[0].hex()),
    ]
