"""Situations of outputs, plugins and CI."""

from tests.situations import Situation

ROWS: tuple[Situation, ...] = ()
