"""Metrics of the `evaluate` library, a folder each; every folder is also a Space."""
