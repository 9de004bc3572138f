"""Flower strategies, made private."""
