"""What `tacit dashboard` does, once its arguments are read."""

import os
from pathlib import Path

from tacit.app.cli.screen import Screen
from tacit.app.listening import Place, check_free, serve
from tacit.app.watching import check_place, house_of
from tacit.server.dashboard.application import application
from tacit.server.dashboard.live import Live

GRACE = 1  # seconds for pages that are open when it is told to stop: they never end by themselves


def run(screen: Screen, folder: Path | None, place: Place) -> None:
    """Show it until told to stop."""
    house = house_of(folder)
    check_place(place, None)
    check_free(place)
    app = application(Live(house, os.urandom(8).hex()))
    screen.say(f"page      {place.url}")
    screen.say(f"metrics   {place.url}/metrics, for Prometheus")
    screen.say("Ctrl-C    stops it, and nothing else")
    screen.fact(event="Watching", url=place.url, name=house.name)
    serve(app, place, GRACE)
