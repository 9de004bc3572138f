"""Privacy mechanisms: pure functions on vectors. No Flower, no torch, no input or output."""
