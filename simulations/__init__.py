"""Simulated federations: engines, data, models, attacks, scores, reports."""
