"""`tacit doctor`: what it takes. The work is in `tacit.app.cli.doctoring`."""

from pathlib import Path
from typing import Annotated

import typer

from tacit.app.cli.options import work
from tacit.app.cli.screen import Json, Quiet, screen_of
from tacit.crypto.errors import ParameterError


def doctor(
    what: Annotated[
        str,
        typer.Argument(
            help="A server's folder, a federation's, or HOST:PORT.", metavar="[DIR | HOST:PORT]"
        ),
    ] = "federation",
    ca: Annotated[
        Path | None, typer.Option("--ca", help="With HOST:PORT: its ca.crt.", metavar="FILE")
    ] = None,
    vault: Annotated[
        Path | None, typer.Option("--vault", help="A device's vault instead.", metavar="VAULT")
    ] = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Look at a server, or a device, as a stranger would and as its owner can; say what to do.

    A line for each thing: ok, careful (no fault, and something to know), not ok, cannot tell. The
    exit code is 1 if anything is not ok. Nothing is changed; what was tried from outside is in the
    front's log.

    [bold]Examples[/]

      tacit doctor /srv/tacit

      tacit doctor fl.example.org:9092 --ca ca.crt

      tacit doctor --vault /var/lib/tacit/vault
    """
    screen, doctoring = screen_of(quiet, json), work("doctoring")
    if vault is not None:
        doctoring.device(screen, vault)
    elif Path(what).is_dir():
        if ca is not None:
            raise ParameterError("--ca goes with HOST:PORT: a server's folder has its own")
        doctoring.server(screen, Path(what))
    elif ":" in what:
        if ca is None:
            raise ParameterError("name the authority's certificate, too: --ca ca.crt")
        doctoring.address(screen, what, ca)
    else:
        raise ParameterError(f"no folder {what}, and no HOST:PORT either")
