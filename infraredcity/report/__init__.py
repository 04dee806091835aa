"""One page about a data set, and the same numbers as JSON."""
