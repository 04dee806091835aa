"""Which process of a training this is, and what the processes say to each other."""
