"""Metrics on pooled confusion matrices, boundaries and calibration."""
