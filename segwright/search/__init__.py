"""Searches around training and post-processing: tuning, cross-validation, the learning-rate range test."""
