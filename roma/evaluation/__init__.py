"""Measure how good translations are."""
