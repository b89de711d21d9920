"""Saved models and prediction."""
