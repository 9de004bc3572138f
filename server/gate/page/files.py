"""Files of a page, and what its browser is told about them: for the operators' page, and for every
other one that is made of the same parts."""

from collections.abc import Callable
from importlib.resources import files
from typing import Any

from fastapi import Request
from fastapi.responses import Response

PACKAGE = "tacit.server.gate.page"  # where style sheet and parts are

# Only what the page's own server serves, and no text that becomes HTML or script: strangers name
# things.
PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-cache",
}
DATA_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


def file_route(package: str, name: str, kind: str) -> Callable[[Request], Any]:
    """What answers with a file of a package, which is read now."""
    content = files(package).joinpath(name).read_bytes()

    async def file(_: Request) -> Response:
        return Response(content, headers=PAGE_HEADERS, media_type=f"{kind}; charset=utf-8")

    return file
