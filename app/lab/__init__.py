"""The lab: attacks on what the server sees of a federation, cell by cell of a matrix."""
