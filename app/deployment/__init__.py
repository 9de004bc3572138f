"""A federation on real machines: its processes, its runs, and who may say what is to be done."""
