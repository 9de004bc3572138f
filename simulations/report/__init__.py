"""A run, or a matrix of attacks, as one self-contained HTML page."""

from tacit.simulations.report.data import (
    Curve,
    Dropped,
    LeakCurve,
    LeakPoint,
    ReportData,
    RoundRow,
    Summary,
)
from tacit.simulations.report.matrix import render_matrix
from tacit.simulations.report.page import headline, render

__all__ = [
    "Curve",
    "Dropped",
    "LeakCurve",
    "LeakPoint",
    "ReportData",
    "RoundRow",
    "Summary",
    "headline",
    "render",
    "render_matrix",
]
