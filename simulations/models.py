"""The built-in models, and the way from a model's name to a `Trainer`.

Every factory takes `(shape, classes)`, where `shape` is that of one example, (C, H, W) or
(features,), and returns a freshly initialised `torch.nn.Module`. Torch is imported inside them:
a device or a simulation without it can use this module, and softmax and mlp in numpy.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from math import prod
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeGuard

from tacit.client.numpy_trainer import NumpyTrainer
from tacit.client.trainer import Trainer
from tacit.crypto.errors import ParameterError
from tacit.simulations.named import call, is_dotted, nearest, resolve

if TYPE_CHECKING:
    from torch import nn

Shape: TypeAlias = tuple[int, ...]
Factory: TypeAlias = "Callable[[Shape, int], nn.Module]"
Backend: TypeAlias = Literal["auto", "torch", "numpy"]

MLP_HIDDEN = (64,)
HEAD = 32  # width of one attention head


def softmax(shape: Shape, classes: int) -> "nn.Module":
    """Softmax regression: arrays fc.weight (classes, features) and fc.bias."""
    from torch import nn

    layers = OrderedDict(flatten=nn.Flatten(), fc=nn.Linear(prod(shape), classes))
    return nn.Sequential(layers)


def mlp(shape: Shape, classes: int, hidden: tuple[int, ...] = MLP_HIDDEN) -> "nn.Module":
    """Fully connected with ReLU: arrays fc0, fc1, ... and head, each with weight and bias."""
    from torch import nn

    if not hidden:
        raise ParameterError("an mlp has at least one hidden layer; 'softmax' is the one without")
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    inputs = prod(shape)
    for i, width in enumerate(hidden):
        layers[f"fc{i}"] = nn.Linear(inputs, width)
        layers[f"relu{i}"] = nn.ReLU()
        inputs = width
    layers["head"] = nn.Linear(inputs, classes)
    return nn.Sequential(layers)


def cnn(shape: Shape, classes: int) -> "nn.Module":
    """Two 3x3 convolutions (16 and 32 wide), each with ReLU and 2x2 max-pooling; one layer out."""
    from torch import nn

    channels, height, width = _image(shape, "cnn", smallest=4)
    layers = OrderedDict(
        conv0=nn.Conv2d(channels, 16, 3, padding=1),
        relu0=nn.ReLU(),
        pool0=nn.MaxPool2d(2),
        conv1=nn.Conv2d(16, 32, 3, padding=1),
        relu1=nn.ReLU(),
        pool1=nn.MaxPool2d(2),
        flatten=nn.Flatten(),
        fc=nn.Linear(32 * (height // 4) * (width // 4), classes),
    )
    return nn.Sequential(layers)


def lenet(shape: Shape, classes: int) -> "nn.Module":
    """The sigmoid LeNet of Deep Leakage from Gradients (Zhu et al. 2019), a usual attack target.

    Three 5x5 convolutions 12 wide, strides 2, 2, 1; every weight and bias uniform in ±0.5, as in
    that paper's code. Made to be attacked: it learns slowly.
    """
    from torch import nn

    channels, height, width = _image(shape, "lenet", smallest=1)
    layers = OrderedDict(
        conv0=nn.Conv2d(channels, 12, 5, 2, 2),
        sigmoid0=nn.Sigmoid(),
        conv1=nn.Conv2d(12, 12, 5, 2, 2),
        sigmoid1=nn.Sigmoid(),
        conv2=nn.Conv2d(12, 12, 5, 1, 2),
        sigmoid2=nn.Sigmoid(),
        flatten=nn.Flatten(),
        fc=nn.Linear(12 * _halved_twice(height) * _halved_twice(width), classes),
    )
    net = nn.Sequential(layers)
    for weight in net.parameters():
        nn.init.uniform_(weight, -0.5, 0.5)
    return net


def smooth_cnn(shape: Shape, classes: int) -> "nn.Module":
    """Two stride-2 3x3 convolutions (32 and 64 wide) and a hidden layer of 128, with ReLU.

    No pooling: the gradient keeps track of where a pixel was, so Inverting Gradients (Geiping et
    al. 2020) gets clear images out of it.
    """
    from torch import nn

    channels, height, width = _image(shape, "smooth-cnn", smallest=1)
    layers = OrderedDict(
        conv0=nn.Conv2d(channels, 32, 3, 2, 1),
        relu0=nn.ReLU(),
        conv1=nn.Conv2d(32, 64, 3, 2, 1),
        relu1=nn.ReLU(),
        flatten=nn.Flatten(),
        fc=nn.Linear(64 * _halved_twice(height) * _halved_twice(width), 128),
        relu2=nn.ReLU(),
        head=nn.Linear(128, classes),
    )
    return nn.Sequential(layers)


def bn_cnn(shape: Shape, classes: int) -> "nn.Module":
    """Two stride-2 3x3 convolutions (16 and 32 wide), each with batch normalisation and ReLU.

    Its running statistics travel with the update and tell what the batch was like: attacks use
    that (Yin et al. 2021). All other models here keep the examples of a batch apart.
    """
    from torch import nn

    channels, height, width = _image(shape, "bn-cnn", smallest=1)
    layers = OrderedDict(
        conv0=nn.Conv2d(channels, 16, 3, 2, 1),
        bn0=nn.BatchNorm2d(16),
        relu0=nn.ReLU(),
        conv1=nn.Conv2d(16, 32, 3, 2, 1),
        bn1=nn.BatchNorm2d(32),
        relu1=nn.ReLU(),
        flatten=nn.Flatten(),
        fc=nn.Linear(32 * _halved_twice(height) * _halved_twice(width), classes),
    )
    return nn.Sequential(layers)


def resnet(shape: Shape, classes: int, blocks: int = 1) -> "nn.Module":
    """ResNet with GroupNorm, 6 * blocks + 2 layers deep: ResNet-8, or ResNet-14 for 2 blocks."""
    from tacit.simulations import resnet as nets

    channels, _, _ = _image(shape, "resnet", smallest=4)
    return nets.resnet(channels, classes, blocks)


def factory(name: str) -> Factory:
    """What makes a model of this name: built-in, `mlp:256` or `mlp:256,64` for one of these widths,
    or one's own as `package.module:factory`. Raises ParameterError for a name that is not there."""
    if is_dotted(name):
        return resolve(name)
    known, _, widths = name.replace("_", "-").partition(":")
    if known not in MODELS:
        raise ParameterError(
            f"unknown model {name!r}{nearest(known, MODELS)}; there are {', '.join(MODELS)}, an "
            "mlp's widths as mlp:256,64, and one's own as package.module:factory"
        )
    return partial(mlp, hidden=_widths(name, known, widths)) if widths else MODELS[known]


def transformer(shape: Shape, classes: int, width: int = 128, blocks: int = 3) -> "nn.Module":
    """A decoder of texts of shape (length,) whose classes are the tokens: it predicts the next one.

    Heads are 32 wide. Arrays blocks.0.attention.query and so on.
    """
    from tacit.simulations import transformer as nets

    if len(shape) != 1:
        raise ParameterError(
            f"model 'transformer' takes texts (length,), not examples of shape {shape}"
        )
    if width < HEAD or width % HEAD or blocks < 1:
        raise ParameterError(
            f"width={width}, blocks={blocks}: expected a multiple of {HEAD}, and at least 1"
        )
    return nets.Decoder(shape[0], classes, width, width // HEAD, blocks)


MODELS: Mapping[str, Factory] = MappingProxyType(
    {
        "softmax": softmax,
        "mlp": mlp,
        "cnn": cnn,
        "lenet": lenet,
        "smooth-cnn": smooth_cnn,
        "bn-cnn": bn_cnn,
        "resnet": resnet,
        "transformer": transformer,
    }
)
IN_NUMPY: Mapping[str, tuple[int, ...]] = MappingProxyType({"softmax": (), "mlp": MLP_HIDDEN})


def trainer(
    name: str, shape: Shape, classes: int, *, backend: Backend = "auto", device: str = "cpu"
) -> Trainer:
    """The trainer of a built-in model, or of one's own as `package.module:factory`.

    One's own factory takes `(shape, classes)` and returns a `torch.nn.Module` or a `Trainer`.
    "auto" takes torch where it is installed, else numpy for the models that exist there.
    Raises ParameterError, saying what to do, for a name, shape or backend that is not there.
    """
    if classes < 2:
        raise ParameterError(f"classes={classes}, expected at least 2")
    if is_dotted(name):
        return _own(name, shape, classes, device)
    made = factory(name)
    if backend == "auto":
        backend = "torch" if find_spec("torch") else "numpy"
    if backend == "numpy":
        return _in_numpy(name, shape, classes)
    return _in_torch(partial(made, shape, classes), device)


def _own(name: str, shape: Shape, classes: int, device: str) -> Trainer:
    made = call(name, shape, classes)
    if _is_trainer(made):
        return made
    if not find_spec("torch"):
        raise ParameterError(
            f"{name} returned {type(made).__name__}, expected a Trainer (torch is not installed)"
        )
    from torch import nn

    if not isinstance(made, nn.Module):
        raise ParameterError(
            f"{name} returned {type(made).__name__}, expected a torch.nn.Module or a Trainer"
        )
    return _in_torch(partial(resolve(name), shape, classes), device)


def _is_trainer(made: object) -> TypeGuard[Trainer]:
    return all(callable(getattr(made, verb, None)) for verb in ("initial", "fit", "evaluate"))


def _in_torch(build: "Callable[[], nn.Module]", device: str) -> Trainer:
    if not find_spec("torch"):
        raise ParameterError("this needs torch: pip install '.[torch]' in Tacit's checkout")
    from tacit.client.torch_trainer import TorchTrainer

    trainer = TorchTrainer(build, device)
    trainer.initial(0)  # a model that cannot be built says so here, not in the first round
    return trainer


def _in_numpy(name: str, shape: Shape, classes: int) -> Trainer:
    known, _, widths = name.replace("_", "-").partition(":")
    if known not in IN_NUMPY:
        raise ParameterError(
            f"model {name!r} needs torch: pip install '.[torch]' in Tacit's checkout; "
            f"without it there are {' and '.join(IN_NUMPY)}"
        )
    hidden = _widths(name, known, widths) if widths else IN_NUMPY[known]
    return NumpyTrainer(prod(shape), classes, hidden)


def _widths(name: str, known: str, widths: str) -> tuple[int, ...]:
    parts = widths.split(",")
    if known != "mlp" or not all(part.isdecimal() and 0 < int(part) <= 2**16 for part in parts):
        raise ParameterError(f"model {name!r}: expected an mlp's widths, as in mlp:64,32")
    return tuple(map(int, parts))


def _image(shape: Shape, model: str, smallest: int) -> tuple[int, int, int]:
    """(channels, height, width). Raises ParameterError if `shape` is not that of a large enough
    image."""
    if len(shape) != 3:
        raise ParameterError(
            f"model {model!r} takes images (channels, height, width), not examples of shape "
            f"{shape}: use softmax or mlp"
        )
    channels, height, width = shape
    if min(height, width) < smallest:
        raise ParameterError(f"model {model!r} takes images of at least {smallest}x{smallest}")
    return channels, height, width


def _halved_twice(size: int) -> int:
    """What two stride-2 convolutions that pad to the edge leave of `size` pixels."""
    return -(-size // 4)
