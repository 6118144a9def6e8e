"""A model and the Hub: convert, export, card, publish, serve."""
