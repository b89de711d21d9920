"""Exports, each verified against the model it comes from."""
