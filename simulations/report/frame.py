"""What every page has: its head with the style in it, a title with facts, and its limits."""

from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files


def document(title: str, body: str) -> str:
    """A whole page that needs nothing else: no network, no scripts, no other files."""
    style = files("tacit.simulations.report").joinpath("style.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)}</title><style>{style}</style></head>\n"
        f"<body><main>{body}</main></body></html>\n"
    )


def header(title: str, headline: str, facts: Iterable[tuple[str, str]]) -> str:
    shown = "".join(
        f"<div><dt>{escape(label)}</dt><dd>{escape(value)}</dd></div>" for label, value in facts
    )
    return (
        f'<header class="top"><p class="title">{escape(title)}</p>'
        f"<h1>{escape(headline)}</h1>"
        f'<dl class="facts">{shown}</dl></header>'
    )


def limits_section(limits: Sequence[str], heading: str = "What this does not promise") -> str:
    if not limits:
        return ""
    items = "".join(f"<li>{escape(limit)}</li>" for limit in limits)
    return f'<section><h2>{heading}</h2><ul class="limits">{items}</ul></section>'


def scrolling(name: str, content: str) -> str:
    """Content wider than a phone, in a region of its own that keyboards can reach."""
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{name}">{content}</div>'
