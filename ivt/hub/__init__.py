"""Scripts around a model, run as `python -m tools.NAME`."""
