"""The Vision Transformer whose tokens the losses compare, and its weights."""
