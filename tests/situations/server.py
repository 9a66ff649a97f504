"""Situations of servers and their models."""

from tests.situations import Situation

ROWS: tuple[Situation, ...] = ()
