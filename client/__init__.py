"""The device: its policy, its vault, and the app that answers a server within both."""
