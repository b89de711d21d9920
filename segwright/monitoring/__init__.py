"""Monitoring of a model in use: observations, the journal, the reference, drift and accuracy without labels."""
