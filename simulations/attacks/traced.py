"""A function of tensors that is called time and again: traced once, compiled where that pays.

The slope of gradient matching is a gradient of a gradient. Taken anew in every step, most of the
time goes into the bookkeeping of two nested automatic differentiations. `torch`'s `make_fx` writes
down once which operations they come to, and the list alone is run again, at half the time.

Inductor, torch's compiler, makes C++ (or GPU kernels) of the list, and a step takes a third to two
thirds of that again. To compile the built-in models takes 20 to 35 seconds of CPU time when a
machine does it first, most of it in the C++ compiler, and some 3 seconds once inductor has the
parts on disk. It saves 2 to 5 milliseconds a step: an attack by itself has to be `PAYS_FROM` steps
long. But what a victim brings, weights and update, is an input to the list, so that within a
process all victims of the same model and shapes share one that is compiled: whoever attacks many
asks for it.

Where there is no compiler, the list is run as it is. All ways agree to rounding.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TypeAlias

import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

Function: TypeAlias = Callable[..., tuple[Tensor, ...]]

# Calls. By their number alone: what is measured, or found on disk, differs from run to run, and the
# two ways round differently.
PAYS_FROM = 10_000


def traced(function: Function, inputs: Sequence[Tensor], *, compiled: bool) -> Function:
    """The same function, for inputs of these shapes, types and devices.

    It may branch on shapes, not on values, and must not change its inputs. Its slopes are its own
    affair: what it returns has none.
    """
    # Copies, as a trace tells its inputs apart by identity.
    graph = make_fx(function)(*(x.clone() for x in inputs))
    constants = _lift(graph)
    run: Function = graph
    if compiled:
        signature = tuple((*x.shape, x.dtype, x.device) for x in (*inputs, *constants))
        try:
            run = _compiled(_Listing(graph.code, signature, graph))
            with torch.no_grad():
                run(*inputs, *constants)
        except RuntimeError:  # as all errors of the compiler are; what is wrong without it shows
            run = graph

    def call(*arguments: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad():
            return run(*arguments, *constants)

    return call


def device_of(name: str | None) -> torch.device:
    """The device of that name; without one a GPU if there is one, else the CPU."""
    return torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))


@dataclass(frozen=True, slots=True)
class _Listing:
    """What was traced; equal if the same code would run on inputs of the same kind."""

    code: str
    inputs: tuple[tuple[object, ...], ...]
    graph: GraphModule = field(repr=False, compare=False)


@lru_cache(maxsize=64)
def _compiled(listing: _Listing) -> Function:
    found: Function = torch.compile(listing.graph, dynamic=False, fullgraph=True)
    return found


def _lift(module: GraphModule) -> list[Tensor]:
    """Make inputs of the tensors that the trace holds, after its own; these, in order."""
    graph = module.graph
    last = [node for node in graph.nodes if node.op == "placeholder"][-1]
    lifted: dict[str, torch.fx.Node] = {}
    constants: list[Tensor] = []
    for node in [node for node in graph.nodes if node.op == "get_attr"]:
        name = str(node.target)
        if name not in lifted:
            with graph.inserting_after(last):
                last = lifted[name] = graph.placeholder(f"constant{len(lifted)}")
            last.meta = node.meta
            constants.append(getattr(module, name).detach())
        node.replace_all_uses_with(lifted[name])
        graph.erase_node(node)
    for name in lifted:
        delattr(module, name)
    module.recompile()
    return constants
