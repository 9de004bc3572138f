"""`tacit seal` and `tacit open`: files that only the holders of some keys can read."""

from pathlib import Path

from tacit.app import sealing
from tacit.app.cli.log import public_key
from tacit.app.cli.screen import Screen
from tacit.crypto.errors import ParameterError
from tacit.crypto.merkle import HASH_BYTES
from tacit.crypto.sealed import NO_ROOT, Context


def new_key(screen: Screen, path: Path) -> None:
    """Make a pair of keys."""
    public = sealing.new_key(path).public.hex()
    screen.say(f"{path} opens what is sealed to {public}")
    screen.say(f"pass on {path}{sealing.PUBLIC}, and keep {path} to yourself")
    screen.result(key=str(path), public=public)


def seal(
    screen: Screen, file: Path, to: list[str], out: Path | None, context: Context, *, replace: bool
) -> None:
    """Seal a file to its recipients."""
    _check_there(file)
    into = out or file.with_name(file.name + sealing.SUFFIX)
    recipients = [recipient_of(each) for each in to]
    sealing.seal_file(file, into, recipients, context, replace=replace)
    screen.say(f"{into}: sealed, keys that open it: {len(recipients)}")
    screen.result(sealed=str(into), recipients=len(recipients))


def unseal(
    screen: Screen,
    file: Path,
    key: Path,
    out: Path | None,
    expected: Context | None,
    *,
    replace: bool,
) -> None:
    """Open a sealed file."""
    _check_there(file)
    if out is None and file.suffix != sealing.SUFFIX:
        raise ParameterError(f"{file} does not end in {sealing.SUFFIX}: name the file with --out")
    into = out or file.with_suffix("")
    context = sealing.open_file(file, into, sealing.read_key(key), expected, replace=replace)
    root = "" if context.root == NO_ROOT else context.root.hex()
    screen.say(f"{into}: of run {context.run}, round {context.round}, log root {root or 'none'}")
    screen.result(opened=str(into), run=context.run, round=context.round, root=root)


def context_of(run: int | None, round: int | None, root: str | None) -> Context | None:
    """What the options say that a file belongs to; None if they say nothing."""
    if run is None and round is None and root is None:
        return None
    try:
        named = bytes.fromhex(root or NO_ROOT.hex())
    except ValueError:
        named = b""
    if len(named) != HASH_BYTES:
        raise ParameterError(f"--root is a log's root: {2 * HASH_BYTES} hexadecimal digits")
    return Context(run or 0, round or 0, named)


def recipient_of(text: str) -> bytes:
    """A public key, or the file that it is in."""
    path = Path(text)
    if not path.is_file():
        return public_key(text)
    try:
        return public_key(path.read_text(encoding="ascii"))
    except ValueError:  # a ParameterError, too
        raise ParameterError(f"{path} is no public key: pass the .pub file") from None


def _check_there(file: Path) -> None:
    if not file.is_file():
        raise ParameterError(f"no file at {file}")
