"""Engines generate the tokens, each in a process of its own under its own interpreter."""
