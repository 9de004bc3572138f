"""Where it is all put together: settings, the ready-made Flower app, and the `tacit` command."""
