"""Meters read energy: one trace per GPU, on the system's monotonic clock."""
