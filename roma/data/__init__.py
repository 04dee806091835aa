"""From windows of two domains to the batches of a training step."""
