"""Who runs the segments of an extraction."""
