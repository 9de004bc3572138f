"""Every protection of a released model, and of what leads to it, against the attack it stops."""
