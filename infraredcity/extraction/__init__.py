"""From a clip to shards: the work cut into segments, done, proved and put together."""
