"""What Tacit claims, tested; the folders mirror the rooms.

A package, so that shared pieces import as `tests.name` and mypy reads them.
"""
