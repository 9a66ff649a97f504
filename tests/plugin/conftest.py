"""Fixtures of the plugin's tests."""

import pytest

from tests.plugin.project import Project


@pytest.fixture
def project(pytester: pytest.Pytester) -> Project:
    return Project(pytester)
