"""Engines: what generates the tokens. Each runs in a process of its own, under its own interpreter."""
