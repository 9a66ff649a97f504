"""Situations of stores, repositories and suites."""

from tests.situations import Situation

ROWS: tuple[Situation, ...] = ()
