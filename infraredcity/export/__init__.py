"""Describe data sets for other programs (Croissant, a Hugging Face card), and write and read the published Lite's folders."""
