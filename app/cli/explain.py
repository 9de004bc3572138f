"""`tacit explain`: what protection of a given size uses, promises and costs."""

from typing import Annotated

import typer

from tacit.app.cli.options import work
from tacit.app.cli.screen import Json, Quiet, screen_of

explain = typer.Typer(
    name="explain",
    help="Say what protection of a given size uses, promises and costs. Runs nothing.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)


@explain.command("secagg")
def explain_secagg(
    devices: Annotated[
        int, typer.Option("--devices", "-n", help="Devices in a cohort.", min=1, max=100_000)
    ],
    gamma: Annotated[
        float, typer.Option(help="Fraction that may collude with the server.", show_default="1/3")
    ] = 1 / 3,
    drop: Annotated[float, typer.Option(help="Fraction that may be missing.")] = 0.1,
    roster: Annotated[
        int | None,
        typer.Option(help="Devices enrolled in all.", min=1, max=10_000_000, show_default="-n"),
    ] = None,
    length: Annotated[
        float,
        typer.Option("--length", "-d", help="Parameters of the model.", show_default="1e6"),
    ] = 1e6,
    precision: Annotated[
        int, typer.Option(help="Bits of one device's parameter, under masks.", min=1, max=48)
    ] = 16,
    protocol: Annotated[
        str, typer.Option(help="How it is hidden: pairwise, lattice or auto.", metavar="NAME")
    ] = "pairwise",
    parameters: Annotated[
        str, typer.Option(help="Parameter set of lattice sums.", metavar="SET")
    ] = "4096-64-2",
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Neighbours or parameter set, committee and threshold for a cohort; what may fail; who learns
    what; what a sum costs; what owners have to allow.

    [bold]Examples[/]

      tacit explain secagg -n 1000 --gamma 0.1 --drop 0.2

      tacit explain secagg -n 1000 --gamma 0.1 --drop 0.2 --protocol lattice
    """
    screen = screen_of(quiet, json)
    work("explaining").secagg(
        screen, devices, gamma, drop, roster, length, precision, protocol, parameters
    )


@explain.command("privacy")
def explain_privacy(
    devices: Annotated[
        int, typer.Option("--devices", "-n", help="Devices in a cohort.", min=2, max=100_000)
    ],
    rounds: Annotated[int, typer.Option(help="Rounds that a device takes part in.", min=1)] = 20,
    epsilon: Annotated[float, typer.Option(help="What all of them may cost it.")] = 8.0,
    delta: Annotated[float, typer.Option(help="At which delta.")] = 1e-5,
    length: Annotated[
        float,
        typer.Option("--length", "-d", help="Parameters of the model.", show_default="1e6"),
    ] = 1e6,
    mode: Annotated[
        str, typer.Option(help="distributed, local or central.", metavar="MODE")
    ] = "distributed",
    gamma: Annotated[
        float, typer.Option(help="Fraction that may collude with the server.", show_default="1/3")
    ] = 1 / 3,
    drop: Annotated[
        float, typer.Option(help="Fraction that may be missing of more than 32 devices.")
    ] = 0.3,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Noise, bytes and epsilon of a private run, and how much noise a trusted server would need.

    [bold]Example[/]

      tacit explain privacy -n 100 --rounds 50 --epsilon 4 -d 1e5
    """
    screen = screen_of(quiet, json)
    work("explaining_privacy").privacy(
        screen, mode, devices, rounds, epsilon, delta, length, gamma, drop
    )


@explain.command("model")
def explain_model(
    name: Annotated[
        str, typer.Argument(help="A built-in model, or package.module:factory.", metavar="NAME")
    ],
    data: Annotated[
        str, typer.Option(help="The data set it is for: shape and classes.", metavar="NAME")
    ] = "digits",
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """The arrays of a model, and the fingerprint by which an owner allows this structure alone.

    [bold]Example[/]

      tacit explain model mlp --data digits
    """
    work("explaining_model").model(screen_of(quiet, json), name, data)


@explain.command("scale")
def explain_scale(
    devices: Annotated[float, typer.Option("--devices", "-n", help="Devices on the roster.")],
    cohort: Annotated[int, typer.Option(help="Sampled for a round.", min=2, max=100_000)] = 100,
    length: Annotated[
        float,
        typer.Option("--length", "-d", help="Parameters of the model.", show_default="1e6"),
    ] = 1e6,
    poll: Annotated[float, typer.Option(help="Seconds between two questions of a device.")] = 3.0,
    every: Annotated[float, typer.Option(help="Seconds from one round to the next.")] = 600.0,
    online: Annotated[float, typer.Option(help="Fraction of the devices that ask.")] = 1.0,
    drop: Annotated[float, typer.Option(help="Fraction of a cohort that falls silent.")] = 0.1,
    gamma: Annotated[float, typer.Option(help="Fraction that may collude with the server.")] = 0.1,
    rounds: Annotated[int, typer.Option(help="Of a run.", min=1, max=10_000)] = 50,
    cores: Annotated[float, typer.Option(help="Of one machine.")] = 16.0,
    line: Annotated[
        float, typer.Option(help="Bytes a second of one machine.", show_default="125e6")
    ] = 125e6,
    seed: Annotated[int, typer.Option(help="Of the devices that are played.")] = 0,
    paper: Annotated[bool, typer.Option("--paper", help="The formula alone.")] = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Bytes, cores, memory and database of a server of many devices; where one machine ends.

    The formula stands beside a simulation that plays the devices one by one. (Nothing else runs.)

    [bold]Example[/]

      tacit explain scale -n 1e6 --poll 100
    """
    from tacit.simulations.load import Fleet, Machine

    fleet = Fleet(
        devices=int(devices),
        cohort=cohort,
        length=int(length),
        online=online,
        poll=poll,
        every=every,
        drop=drop,
        gamma=gamma,
    )
    screen = screen_of(quiet, json)
    work("explaining_scale").scale(
        screen, fleet, Machine(cores, line), rounds, seed, plays=not paper
    )
