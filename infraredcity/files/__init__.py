"""Local and remote files, in one way: read, written whole, locked, cached. No other folder knows a URL's scheme."""
