"""Training: plan, loop, checkpoints, logs."""
