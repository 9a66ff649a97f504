"""Measurements of a cell, live or replayed."""
