"""What the world sees of a server: the paths that devices use, and nothing else."""
