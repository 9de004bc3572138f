"""The operators' page: `routes.py` serves it, and it looks and acts by what `routes.py` offers."""
