"""Evaluation and the report that people look at."""
