"""The translators, and their table."""
