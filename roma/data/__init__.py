"""Make the batches of a training step from windows of two domains."""
