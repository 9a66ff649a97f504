"""What `pytest-energy` offers beside pytest."""
