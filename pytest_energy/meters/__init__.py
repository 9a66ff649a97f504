"""Meters: what reads energy. Each yields one trace per GPU on the system's monotonic clock."""
