"""Data sets from the Hugging Face hub, through flwr-datasets; only ever when asked for by name."""

from typing import Any

import numpy as np

from tacit.client.trainer import Examples
from tacit.crypto.errors import ParameterError
from tacit.simulations.data.dataset import Dataset, divided, scaled
from tacit.simulations.data.flower_data import federated_dataset
from tacit.simulations.data.pictures import plain, stack

TEST_SPLITS = ("test", "validation", "valid")


def hub(name: str) -> Dataset:
    """A labelled image data set of the hub, such as `ylecun/mnist`; downloaded or from its cache.

    The first column of images and the first of class labels are taken. Without a test or
    validation split, one example in five of each class goes to the test half.
    Raises ParameterError if it cannot be had, or holds no images with class labels.
    """
    federated = federated_dataset()(dataset=name, partitioners={"train": 1}, shuffle=False)
    try:
        train = federated.load_split("train")
    except Exception as unavailable:  # three libraries below raise whatever they like here
        raise ParameterError(
            f"hub:{name} cannot be loaded: {unavailable}. Is there a network, and is the name "
            "right (huggingface.co/datasets/NAME)? Data on this machine: npz:PATH or folder:PATH"
        ) from unavailable
    image, label = _column(name, train, "Image"), _column(name, train, "ClassLabel")
    class_names = [str(value) for value in train.features[label].names]
    training = _examples(name, train, image, label)
    source = f"Hugging Face hub, huggingface.co/datasets/{name}; its page states the licence"
    for split in TEST_SPLITS:
        try:
            rows = federated.load_split(split)
        except ValueError:  # no split of that name
            continue
        return Dataset(
            name=f"hub:{name}",
            train=training,
            test=_examples(name, rows, image, label),
            classes=len(class_names),
            shape=training.x.shape[1:],
            class_names=tuple(class_names),
            source=source,
        )
    return divided(f"hub:{name}", training, class_names, source)


def _column(name: str, rows: Any, kind: str) -> str:
    """The first column whose feature is a `kind`."""
    for column, feature in rows.features.items():
        if type(feature).__name__ == kind:
            return str(column)
    raise ParameterError(
        f"hub:{name} has no {kind} column (it has {', '.join(map(str, rows.features))}): write a "
        "function that returns a Dataset, and name it as package.module:function"
    )


def _examples(name: str, rows: Any, image: str, label: str) -> Examples:
    what = f"hub:{name}"
    pictures = [plain(np.asarray(picture), what) for picture in rows[image]]
    x = stack(pictures, [f"image {i} of {what}" for i in range(len(pictures))])
    return Examples(scaled(x), np.array(rows[label], dtype=np.int64))
