"""A training run: steps, schedule, checkpoints, logs."""
