"""The dashboard's page: what a browser loads, and nothing else."""
