"""Finding a user's own model or data set by one dotted name, `package.module:attribute`."""

import importlib
import sys
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from tacit.crypto.errors import ParameterError


def is_dotted(name: str) -> bool:
    """Whether `name` has the form `package.module:attribute` with Python names throughout."""
    module, colon, attribute = name.partition(":")
    parts = [*module.split("."), *attribute.split(".")]
    return bool(colon) and all(part.isidentifier() for part in parts)


def check_own(name: str) -> None:
    """Raises ParameterError for what is Python's own. It makes no data and no model, and a run's
    settings may come from another machine: `http.server:test` would serve files to everybody."""
    if is_dotted(name) and name.partition(":")[0].partition(".")[0] in sys.stdlib_module_names:
        raise ParameterError(f"{name} is Python's own, and makes no data and no model: name yours")


def resolve(name: str) -> Callable[..., Any]:
    """The callable that `package.module:attribute` names.

    Modules of the current folder are found too: it is put at the end of the search path, where
    it can hide nothing that is installed. Raises ParameterError if the module cannot be imported,
    has no such callable, or is Python's own.
    """
    check_own(name)
    module_name, _, attribute = name.partition(":")
    found: Any = _module(module_name, name)
    for part in attribute.split("."):
        if not hasattr(found, part):
            hint = nearest(part, [a for a in dir(found) if not a.startswith("_")])
            raise ParameterError(f"{name}: {module_name} has no {part!r}{hint}")
        found = getattr(found, part)
    if not callable(found):
        raise ParameterError(f"{name} is a {type(found).__name__}, expected something to call")
    resolved: Callable[..., Any] = found
    return resolved


def call(name: str, *arguments: object) -> Any:
    """What the callable named `name` returns. Raises ParameterError if it raises anything."""
    function = resolve(name)
    try:
        return function(*arguments)
    except Exception as broken:  # a user's function may raise anything at all
        given = ", ".join(map(repr, arguments))
        raise ParameterError(
            f"{name}({given}) failed: {type(broken).__name__}: {broken}"
        ) from broken


def nearest(name: str, known: Iterable[str]) -> str:
    """A remark such as " (did you mean 'resnet'?)", or nothing if no known name is near."""
    matches = get_close_matches(name, list(known), n=1)
    return f" (did you mean {matches[0]!r}?)" if matches else ""


def _module(module_name: str, name: str) -> Any:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as missing:
        if missing.name is None or not f"{module_name}.".startswith(f"{missing.name}."):
            raise ParameterError(
                f"{name}: {module_name} needs the module {missing.name!r}, which is not installed"
            ) from missing
        raise ParameterError(
            f"{name}: there is no module {missing.name!r}; run from the folder that holds it, "
            "or install it"
        ) from missing
    except Exception as broken:  # a user's module may raise anything at all while it is imported
        raise ParameterError(
            f"{name}: importing {module_name} failed: {type(broken).__name__}: {broken}"
        ) from broken
