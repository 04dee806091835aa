"""Data sets for others and from others: Croissant, the card of Hugging Face, and the folder layout of the published Lite."""
