"""The in-domain backbone: a masked autoencoder."""
