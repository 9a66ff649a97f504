"""The data that all else is about: counters and their companions, the file, the environment's fingerprint."""
