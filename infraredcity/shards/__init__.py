"""The format on disk: shards of samples, their index, and reading and writing both."""
