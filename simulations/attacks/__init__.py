"""Attacks on what a server sees."""
