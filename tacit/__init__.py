"""Tacit: federated learning where the server learns the sum and nothing else.

The code lives in the top-level folders (`crypto`, `client`, `server`, ...); this package is their
import name. In a source tree the links beside this file lead there. Where links are lost (a Flower
app bundle, a Windows checkout) the folders are one level up, and the search path says so.
"""

from pathlib import Path

__version__ = "0.1.0"

_here = Path(__file__).resolve().parent
if not (_here / "server").is_dir() and (_here.parent / "server").is_dir():
    __path__.append(str(_here.parent))
