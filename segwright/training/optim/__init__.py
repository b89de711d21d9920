"""Optimizers, schedules, parameter groups and averaged weights."""
