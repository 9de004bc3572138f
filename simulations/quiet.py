"""Devices that keep to themselves what they log, where a refusal is a result and no trouble."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def hushed() -> Iterator[None]:
    """Inside the block nothing that devices log goes anywhere but to handlers of their own."""
    logger, silent = logging.getLogger("tacit.client"), logging.NullHandler()
    before = logger.propagate
    logger.addHandler(silent)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(silent)
        logger.propagate = before
