"""Recordings: counters and their companions, the file, the environment's fingerprint."""
