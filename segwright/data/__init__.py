"""Datasets: formats, inspection, loading and the embedded synthetic default."""
