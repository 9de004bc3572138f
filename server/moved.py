"""The model that a sum moved, as Flower sends it.

`Array(ndarray)` saves the array to a buffer of its own, by way of another copy: three arrays where
one is enough. Here each is worked out inside the buffer.
"""

import io

import numpy as np
from flwr.app import Array, ArrayRecord

from tacit.crypto.vector import Arrays, Entry, Layout, Sliced


def moved(model: Arrays, update: Sliced) -> ArrayRecord:
    """`model + update`: see `Layout.add`."""
    layout, record = Layout.of(model), ArrayRecord()
    for entry in layout.entries:
        record[entry.name] = _array(entry, layout, model, update)
    return record


def _array(entry: Entry, layout: Layout, model: Arrays, update: Sliced) -> Array:
    dtype, buffer = np.dtype(entry.dtype), io.BytesIO()
    header = {"descr": entry.dtype, "fortran_order": False, "shape": entry.shape}
    np.lib.format.write_array_header_1_0(buffer, header)
    start, size = buffer.tell(), entry.size * dtype.itemsize
    if size:  # the gap before is filled with zeros
        buffer.seek(start + size - 1)
        buffer.write(b"\0")
    # While the view lives the buffer cannot be taken: it is gone when `add_into` is done.
    layout.add_into(
        np.frombuffer(buffer.getbuffer(), dtype, offset=start).reshape(entry.shape),
        entry.name,
        model,
        update,
    )
    return Array(str(dtype), entry.shape, "numpy.ndarray", buffer.getvalue())
