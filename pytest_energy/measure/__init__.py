"""A recording becomes a measurement."""
