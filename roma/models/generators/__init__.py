"""The translators, by the name of their architecture."""
