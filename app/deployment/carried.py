"""What an order does, once it was found to be genuine and allowed."""

from tacit.app.deployment.executing import AT_ONCE, execute
from tacit.app.deployment.orders import Order
from tacit.app.deployment.places import Places
from tacit.app.deployment.runs import Runs
from tacit.app.journal import Journal
from tacit.crypto.order import Act


def carry_out(order: Order, places: Places, runs: Runs, journal: Journal) -> None:
    """Do what was ordered; to do it again changes nothing. Raises TacitError, with the reason, if
    it cannot be done."""
    if order.act in AT_ONCE:
        execute(places, order, journal)
    elif order.act is Act.RUN:
        runs.order(order.name, order.settings, order.by, order.digest)
    elif order.act is Act.RESUME:
        runs.resume(order.name, order.by)
    else:
        runs.stop(order.name, order.by)
