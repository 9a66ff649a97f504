"""Situations of GPUs, drivers and neighbours."""

from tests.situations import Situation

ROWS: tuple[Situation, ...] = ()
