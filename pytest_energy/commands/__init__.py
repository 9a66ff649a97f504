"""What `pytest-energy` offers besides pytest."""
