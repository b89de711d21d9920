"""Exports and serving."""
