"""A function of tensors that is called time and again: traced once, compiled where that pays.

The slope of gradient matching is a gradient of a gradient. Taken anew in every step, most of the
time goes into the bookkeeping of two nested automatic differentiations. `torch`'s `make_fx` writes
down once which operations they come to, and the list alone is run again. Inductor, its compiler,
makes C++ (or GPU kernels) of the list: a step of the built-in models then takes a third to a half
of the listed one, but compiling takes some 5 to 10 seconds of CPU time, as long as one or two
thousand steps. A list is compiled once in a process: what a victim brings, weights and update, is
an input to it, so that the next victim of the same model and shapes pays nothing.

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

PAYS_FROM = 2000  # calls; by their number alone, as seconds would make a run depend on the weather


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
