"""The coordinator: runs rounds, asks for secure sums, and sees what a server sees, no more."""
