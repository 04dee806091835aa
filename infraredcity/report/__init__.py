"""Measure a data set, and write one page about it."""
