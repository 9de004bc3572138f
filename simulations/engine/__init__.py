"""Flower in this process: a grid, the devices behind it, and faults on demand."""
