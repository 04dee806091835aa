"""Data sets on disk: folders of shards, their manifest, and the sets that are made from others."""
