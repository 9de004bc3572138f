"""The process that stands between Flower and a device: what it lets run, and when."""
