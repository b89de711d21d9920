"""Decisions made before the first step: the plan, and what a step and a validation take."""
