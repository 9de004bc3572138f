"""A device that shares a process with others, but not what they have computed."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, lru_cache
from typing import Any

PACKAGE = "tacit."


@contextmanager
def nothing_remembered() -> Iterator[None]:
    """Inside, no function of Tacit remembers results of before; afterwards all is as it was.

    Tacit keeps what many devices of one process compute alike, such as checks of signatures. On a
    machine of its own, in a process that Flower starts for one message, a device finds nothing
    kept. The server, whose process lives on, loses nothing.
    """
    places = _places()
    fresh = {id(function): _forgetful(function) for _, _, _, function in places}
    for owner, name, found, function in places:
        own = fresh[id(function)]
        setattr(owner, name, classmethod(own) if isinstance(found, classmethod) else own)
    try:
        yield
    finally:
        for owner, name, found, _ in places:
            setattr(owner, name, found)


@cache
def _places() -> list[tuple[Any, str, Any, Any]]:
    """Where functions that remember are found: owner, name, what is there, the function in it."""
    modules = [module for name, module in sys.modules.items() if name.startswith(PACKAGE)]
    classes = {
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, type) and value.__module__.startswith(PACKAGE)
    }
    return [
        (owner, name, found, function)
        for owner in (*modules, *classes)
        for name, found in vars(owner).items()
        if hasattr(function := getattr(found, "__func__", found), "cache_parameters")
    ]


def _forgetful(function: Any) -> Any:
    """The same function with an empty memory of the same size."""
    return lru_cache(**function.cache_parameters())(function.__wrapped__)
