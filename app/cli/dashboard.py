"""`tacit dashboard`: a run or a server, live, in a browser."""

from pathlib import Path
from typing import Annotated

import typer

from tacit.app.cli.options import work
from tacit.app.cli.screen import Json, Quiet, screen_of


def dashboard(
    folder: Annotated[
        Path | None,
        typer.Argument(
            help="Of a run, of runs, or of a server.",
            metavar="DIR | RUN",
            show_default="federation, if it is there, or runs",
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Where it is asked.", metavar="ADDRESS")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8844,
    tls_cert: Annotated[
        Path | None, typer.Option("--tls-cert", help="PEM, with its chain.", metavar="FILE")
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option("--tls-key", help="Of the certificate.", metavar="FILE")
    ] = None,
    proxy: Annotated[
        str | None,
        typer.Option(help="A proxy in front, that ends TLS: it says who asks.", metavar="ADDRESS"),
    ] = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Watch runs in a browser: rounds, accuracy, who dropped out, epsilon, refusals, the log.

    It only reads, opens no key, and may be started and stopped at any time. /metrics is for
    Prometheus. On another --host than this machine's own it takes a viewer's token.

    [bold]Examples[/]

      tacit dashboard runs/latest

      tacit dashboard federation --port 9000
    """
    watching = work("watching")
    place = watching.Place(host, port, tls_cert, tls_key, proxy)
    watching.run(screen_of(quiet, json), folder, place)
