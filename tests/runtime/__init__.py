"""Tacit on Flower's own runtimes, and the small federation that runs there and elsewhere."""
