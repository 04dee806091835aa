"""Where bytes are, on a disk here or behind a URL; nothing above knows a scheme."""
