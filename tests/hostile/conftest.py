"""Fixtures of the tests on hostile input."""

from tests.plugin.conftest import project

__all__ = ["project"]
