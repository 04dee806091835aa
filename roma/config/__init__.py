"""Every setting of a run: what it may be, its presets, and how a config is read."""
