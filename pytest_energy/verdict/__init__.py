"""A measurement and a baseline become a verdict; rule.py is the rule."""
