"""Situations of other people's machines, servers and repositories, and the tests that hold them.

From public reports of users of this kind of tool, each tried before and after it was mended.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Situation:
    """One situation: `before` and `now` say in short what the tool did and does.

    Attributes:
        kind: what it is an example of, the heading of its rows.
        situation: what the user has.
        before, now: what the gate said or did.
        test: node id of the test that holds it, without parameters.
    """

    kind: str
    situation: str
    before: str
    now: str
    test: str


def situations(kind: str, place: str, *found: tuple[str, str, str, str]) -> tuple[Situation, ...]:
    """Several of one kind: situation, before, now, and the test's node id below `place`."""
    return tuple(
        Situation(kind, situation, before, now, place + test)
        for situation, before, now, test in found
    )
