"""Serving a released model: every answer passes one visible chain, and is counted and logged."""
