"""The networks: generators, discriminators (critics), and the frozen ViT with its weights."""
