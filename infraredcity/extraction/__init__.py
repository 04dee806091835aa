"""Extract a clip to shards: a job cut into segments, each written and recorded, then merged into a data set."""
