"""Pure cryptography and coding: no Flower, no torch, no input or output, no clock."""
