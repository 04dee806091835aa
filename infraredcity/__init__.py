"""InfraredCity: long night-infrared clips to verified WebDataset shards, and loaders over them."""
