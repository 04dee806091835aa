"""The translator at work."""
