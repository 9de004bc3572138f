"""`tacit gate` and `tacit serve`: who may ask a released model, and how much."""

from pathlib import Path
from typing import Annotated

import typer

from tacit.app.cli.options import work
from tacit.app.cli.screen import Json, Quiet, screen_of
from tacit.crypto.errors import ParameterError

gate = typer.Typer(
    name="gate",
    help="Say who may ask a served model, and how much: keys, budgets, states, approvals.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)


gate_key = typer.Typer(
    name="key", help="Issue, list, rotate and revoke keys.", no_args_is_help=True
)
gate.add_typer(gate_key)
gate_ask = typer.Typer(
    name="ask", help="Ask for what a second person has to approve.", no_args_is_help=True
)
gate.add_typer(gate_ask)
gate_budget = typer.Typer(
    name="budget", help="Ask for a larger budget; a second person approves.", no_args_is_help=True
)
gate.add_typer(gate_budget)
gate_totp = typer.Typer(name="totp", help="One-time codes for people.", no_args_is_help=True)
gate.add_typer(gate_totp)


Gate = Annotated[Path, typer.Option("--gate", "-g", help="The gate's folder.", metavar="DIR")]
As = Annotated[
    Path | None,
    typer.Option(
        "--as", help="File with the key of who acts; by default $TACIT_GATE_KEY.", metavar="FILE"
    ),
]
KeyName = Annotated[
    str, typer.Argument(help="A key's public name.", metavar="KEY", show_default=False)
]
KeyOut = Annotated[
    Path | None,
    typer.Option("--out", "-o", help="Put the key into this file, unseen.", metavar="FILE"),
]
Reason = Annotated[str, typer.Option("--reason", help="Why: it goes to the log.")]
Recipient = Annotated[
    str, typer.Option("--to", help="A public key, or its .pub file.", metavar="KEY")
]
AT_GATE = Path("gate")


@gate.command("init")
def gate_init(
    gate: Gate = AT_GATE, out: KeyOut = None, quiet: Quiet = False, json: Json = False
) -> None:
    """Make a gate, and the key of its first authority, which is shown once.

    [bold]Examples[/]

      tacit gate init --out authority.key

      tacit gate key issue --as authority.key --organisation house --role operator --out op.key

      tacit gate key issue --as op.key --organisation clinic --out clinic.key
    """
    work("gating").init(screen_of(quiet, json), gate, out)


@gate_key.command("issue")
def gate_key_issue(
    organisation: Annotated[str, typer.Option(help="Whose it is.", metavar="NAME")],
    role: Annotated[
        str, typer.Option(help="client, viewer, operator, releaser or authority.", metavar="ROLE")
    ] = "client",
    days: Annotated[float, typer.Option(help="How long it is good.")] = 90.0,
    detail: Annotated[
        list[str] | None,
        typer.Option(
            help="What it may ask for beyond labels: top1, rounded. Repeatable.", metavar="DETAIL"
        ),
    ] = None,
    network: Annotated[
        list[str] | None,
        typer.Option(help="From where alone, as 10.0.0.0/8. Repeatable.", metavar="CIDR"),
    ] = None,
    gate: Gate = AT_GATE,
    acting: As = None,
    out: KeyOut = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Make a key. It is shown once, or put into a file: the gate keeps a digest alone.

    Operators make those of clients and viewers, authorities all others. Its budget is the default:
    see tacit gate budget raise.
    """
    work("gating").issue(
        screen_of(quiet, json), gate, acting, organisation, role, days, detail or [], network or [],
        out,
    )  # fmt: skip


@gate_key.command("list")
def gate_key_list(
    gate: Gate = AT_GATE, acting: As = None, quiet: Quiet = False, json: Json = False
) -> None:
    """List all keys: state, risk, answers that are spent (or reserved) and left."""
    work("gating").keys(screen_of(quiet, json), gate, acting)


@gate_key.command("rotate")
def gate_key_rotate(
    key: KeyName,
    overlap: Annotated[
        float, typer.Option(help="Hours that the secret of before goes on.", min=0.0)
    ] = 24.0,
    gate: Gate = AT_GATE,
    acting: As = None,
    out: KeyOut = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Give a key a new secret: its holder, or who may issue it. Name and budget stay."""
    work("gating").rotate(screen_of(quiet, json), gate, acting, key, overlap, out)


@gate_key.command("revoke")
def gate_key_revoke(
    key: KeyName,
    gate: Gate = AT_GATE,
    acting: As = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """End a key, at once and for good."""
    work("gating").revoke(screen_of(quiet, json), gate, acting, key)


@gate.command("suspend")
def gate_suspend(
    key: KeyName,
    reason: Reason,
    gate: Gate = AT_GATE,
    acting: As = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Answer nothing more to a key until somebody restores it."""
    work("gating").suspend(screen_of(quiet, json), gate, acting, key, reason)


@gate.command("restore")
def gate_restore(
    key: KeyName,
    reason: Reason,
    excuse: Annotated[
        float,
        typer.Option(help="Days in which nothing is held against it by itself.", min=0.0),
    ] = 0.0,
    gate: Gate = AT_GATE,
    acting: As = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Take back what is held against a key that is degraded or suspended."""
    work("gating").restore(screen_of(quiet, json), gate, acting, key, reason, excuse)


@gate_budget.command("raise")
def gate_budget_raise(
    answers: Annotated[int, typer.Argument(help="In its whole life.", show_default=False)],
    key: Annotated[
        str | None, typer.Option("--key", help="Of this key, before trust and risk.")
    ] = None,
    organisation: Annotated[
        str | None, typer.Option(help="Of all keys of this one together, before trust.")
    ] = None,
    gate: Gate = AT_GATE,
    acting: As = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Ask for another budget of a key or an organisation. Nothing changes before tacit gate
    approve.

    It takes two keys of role authority: one asks, another approves, with a one-time code.

    An answer counts in both budgets: raise both. Trust makes four times as many, with time and use.
    """
    gating = work("gating")
    if (key is None) == (organisation is None):
        raise ParameterError("whose budget? --key or --organisation")
    deed = gating.Deed.KEY_BUDGET if key is not None else gating.Deed.ORGANISATION_BUDGET
    subject = key or organisation or ""
    gating.ask(screen_of(quiet, json), gate, acting, deed, subject, answers)


@gate_ask.command("full-scores")
def gate_ask_full_scores(
    key: KeyName,
    gate: Gate = AT_GATE,
    acting: As = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """That a key may ask for all scores. Few of them are a whole linear model."""
    gating = work("gating")
    gating.ask(screen_of(quiet, json), gate, acting, gating.Deed.FULL_SCORES, key)


@gate_ask.command("release")
def gate_ask_release(
    model: Annotated[Path, typer.Argument(help="Its file.", metavar="FILE", show_default=False)],
    gate: Gate = AT_GATE,
    acting: As = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """That a model, by the digest of its file, may be released."""
    work("gating").ask_release(screen_of(quiet, json), gate, acting, model)


@gate_ask.command("export")
def gate_ask_export(
    to: Recipient,
    gate: Gate = AT_GATE,
    acting: As = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """That the key that signs the gate's log may be exported to somebody, once."""
    work("gating").ask_export(screen_of(quiet, json), gate, acting, to)


@gate.command("requests")
def gate_requests(
    gate: Gate = AT_GATE, acting: As = None, quiet: Quiet = False, json: Json = False
) -> None:
    """List what waits for somebody of this key's role."""
    work("gating").requests(screen_of(quiet, json), gate, acting)


@gate.command("approve")
def gate_approve(
    number: Annotated[int, typer.Argument(help="Of the request.", show_default=False)],
    gate: Gate = AT_GATE,
    acting: As = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Approve what somebody else asked for, with a one-time code, typed or in $TACIT_GATE_CODE."""
    work("gating").approve(screen_of(quiet, json), gate, acting, number)


@gate.command("export")
def gate_export(
    to: Recipient,
    out: Annotated[Path, typer.Option("--out", "-o", help="Sealed file.", metavar="FILE")],
    gate: Gate = AT_GATE,
    acting: As = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Seal the key that signs the gate's log to whom it was approved for."""
    work("gating").export(screen_of(quiet, json), gate, acting, to, out)


@gate_totp.command("enrol")
def gate_totp_enrol(
    gate: Gate = AT_GATE, acting: As = None, quiet: Quiet = False, json: Json = False
) -> None:
    """Set up one-time codes for the holder of the acting key; the address is shown once."""
    work("gating").enrol(screen_of(quiet, json), gate, acting)


def serve(
    model: Annotated[
        Path, typer.Argument(help="A run's folder, or a sealed model.", show_default=False)
    ],
    gate: Gate = AT_GATE,
    key: Annotated[
        Path | None, typer.Option("--key", help="Opens a sealed model.", metavar="KEYFILE")
    ] = None,
    host: Annotated[str, typer.Option(help="Where it is asked.", metavar="ADDRESS")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8443,
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
    reveal: Annotated[
        str, typer.Option(help="To all keys: label, top1, rounded, full.", metavar="DETAIL")
    ] = "label",
    digits: Annotated[int, typer.Option(help="Of rounded scores.", min=1, max=6)] = 2,
    most: Annotated[int, typer.Option(help="Inputs to a request.", min=1, max=4096)] = 64,
    sensitivity: Annotated[
        str,
        typer.Option(
            help="high: labels alone, of a private run, released by two people.", metavar="LEVEL"
        ),
    ] = "normal",
    window: Annotated[
        str, typer.Option(help="Of a key, for load alone.", metavar="N/PERIOD")
    ] = "600/minute",
    organisation_window: Annotated[
        str, typer.Option(help="Of all its keys.", metavar="N/PERIOD")
    ] = "1200/minute",
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Answer with a released model: to whom has a key, as much as it may, and on record.

    Each request goes one way: key, scope, budget, validate, model, reveal, watch, respond, log.
    Nothing is answered that is not in the gate's log. The model has to be what its run's log says.

    [bold]Example[/]

      tacit gate init --out authority.key

      tacit serve runs/latest
    """
    serving = work("serving")
    place = serving.Place(host, port, tls_cert, tls_key, proxy)
    serving.run(
        screen_of(quiet, json), model, gate, key, place, reveal, digits, most, sensitivity, window,
        organisation_window,
    )  # fmt: skip
