"""Every way to name a data set, and the one function that loads it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from tacit.crypto.errors import ParameterError
from tacit.simulations.data import embedded, files, hub
from tacit.simulations.data.dataset import Dataset
from tacit.simulations.named import call, is_dotted, nearest

EMBEDDED: Mapping[str, Callable[[], Dataset]] = MappingProxyType(
    {
        "digits": embedded.digits,
        "breast-cancer": embedded.breast_cancer,
        "faces": embedded.faces,
        "portraits": embedded.portraits,
        "photos": embedded.photos,
    }
)
IN_FOLDER: Mapping[str, Callable[[Path | None], Dataset]] = MappingProxyType(
    {
        "fashion-mnist": files.fashion_mnist,
        "heart-disease": files.heart_disease,
        "cifar10-jpeg": files.cifar10_jpeg,
        "tiny-shakespeare": files.tiny_shakespeare,
    }
)
FORMS = "npz:PATH, folder:PATH, hub:NAME or package.module:function"


def load(name: str, *, root: Path | None = None, size: int | None = None) -> Dataset:
    """The data set `name`: embedded, in a folder, in a file, from the hub, or one's own.

    `root` is the folder of the known data sets; None means the variable TACIT_DATA. `size`
    resizes the images of a `folder:`. One's own function takes nothing and returns a `Dataset`.
    The same name gives the same examples in the same order and the same split.
    Raises ParameterError, saying what to do, for a name that is not there, for a file that is
    missing or damaged, and for data that are no data set.
    """
    kind, _, rest = name.partition(":")
    if size is not None and kind != "folder":
        raise ParameterError(f"size={size} only goes with folder:PATH, not with {name!r}")
    if rest and kind == "npz":
        return files.npz(Path(rest).expanduser())
    if rest and kind == "folder":
        return files.folder(Path(rest).expanduser(), size)
    if rest and kind == "hub":
        return hub.hub(rest)
    if is_dotted(name):
        return _own(name)
    known = name.replace("_", "-")
    if known in EMBEDDED:
        return EMBEDDED[known]()
    if known in IN_FOLDER:
        return IN_FOLDER[known](root)
    names = [*EMBEDDED, *IN_FOLDER]
    raise ParameterError(
        f"unknown data set {name!r}{nearest(known, names)}; there are {', '.join(names)}, "
        f"and {FORMS}"
    )


def _own(name: str) -> Dataset:
    made = call(name)
    if not isinstance(made, Dataset):
        raise ParameterError(
            f"{name} returned {type(made).__name__}, expected a tacit.simulations.data.Dataset"
        )
    return made
