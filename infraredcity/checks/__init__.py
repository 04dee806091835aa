"""Verify a data set, and repair what is known exactly."""
