"""What `tacit dashboard` does, once its arguments are read."""

import os
from importlib.util import find_spec
from pathlib import Path

from tacit.app.cli.screen import Screen
from tacit.app.listening import Place, check_free, serve
from tacit.app.watching import check_place, house_of, usual, viewers_of
from tacit.server.dashboard.application import application
from tacit.server.dashboard.live import Live


def run(screen: Screen, folder: Path | None, place: Place) -> None:
    """Show it until told to stop."""
    path = folder or usual()
    house = house_of(path)
    is_local = place.is_loopback and place.proxy is None
    who = None if is_local else viewers_of(path)
    check_place(place, who)
    check_free(place)
    live = Live(house, os.urandom(8).hex())
    screen.say(f"page      {place.url}")
    takes = "" if find_spec("prometheus_client") else "; takes pip install prometheus-client"
    screen.say(f"metrics   {place.url}/metrics, for Prometheus{takes}")
    screen.say("Ctrl-C    stops it, and nothing else")
    screen.fact(event="Watching", url=place.url, name=house.name)
    serve(application(live, who), place, live.end)
