"""Run a trained translator."""
