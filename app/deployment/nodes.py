"""Which nodes Flower lets in: those of the roster that the server goes by, and no others."""

from collections.abc import Iterable
from dataclasses import dataclass

from tacit.app.deployment.control import Control, FlowerNode
from tacit.crypto.answers import Node
from tacit.server.deployed import NodeRegistered, NodeUnregistered
from tacit.server.kinds import Kind


@dataclass(frozen=True, slots=True)
class Changes:
    """What is to be done so that Flower's nodes are the roster's."""

    register: tuple[Node, ...]
    unregister: tuple[FlowerNode, ...]


def changes(wanted: Iterable[Node], there: Iterable[FlowerNode]) -> Changes:
    """A node is its key: one of another key is another node, whatever it is called."""
    keys = {node.key: node for node in wanted}
    known = {node.key for node in there}
    return Changes(
        tuple(node for key, node in keys.items() if key not in known),
        tuple(node for node in there if node.key not in keys),
    )


def apply(control: Control, wanted: Iterable[Node]) -> list[Kind]:
    """Register and unregister; what was done, for the log. Raises as `Control` does, and goes on
    where it was when it is called again. Who is out goes first."""
    todo, done = changes(wanted, control.nodes()), list[Kind]()
    for each in todo.unregister:
        control.unregister(each)
        done.append(NodeUnregistered(each.name, each.key.hex()))
    for node in todo.register:
        control.register(node.name, node.key)
        done.append(NodeRegistered(node.name, node.key.hex()))
    return done
