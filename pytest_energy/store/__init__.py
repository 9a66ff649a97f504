"""Baselines and noise, as JSON in the repository."""
