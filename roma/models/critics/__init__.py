"""The discriminators, and their table."""
