"""pytest-energy: gate LLM-serving upgrades on energy per token."""

__version__ = "0.1.0"
