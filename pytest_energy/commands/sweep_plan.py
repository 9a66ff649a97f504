"""Which launches a sweep is made of, in which order, and where they are kept. Pure."""

import random
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Planned:
    """One launch: its block, from 1, and its release's version."""

    block: int
    release: str

    def folder(self, of_gpus: Path) -> Path:
        """Where it is kept, below the folder of its GPUs."""
        return of_gpus / f"block-{self.block}" / self.release


def plan(releases: Sequence[str], blocks: int, gpus: Sequence[str]) -> list[Planned]:
    """Every release once a block, so that no drift favours one.

    Their order in a block follows from its number, the GPUs and which releases there are, so that
    a sweep that goes on keeps to its plan, and that of another GPU has another.
    """
    return [
        Planned(block, release)
        for block in range(1, blocks + 1)
        for release in _order(releases, block, gpus)
    ]


def _order(releases: Sequence[str], block: int, gpus: Sequence[str]) -> list[str]:
    names = sorted(releases)
    random.Random(" ".join([str(block), *sorted(gpus), *names])).shuffle(names)
    return names


@dataclass
class Progress:
    """What is left of a plan.

    Attributes:
        planned: all launches, in order.
        recorded: those that need not be made.
    """

    planned: Sequence[Planned]
    recorded: Collection[Planned]
    _done: set[Planned] = field(default_factory=set)
    _failures: Counter[str] = field(default_factory=Counter)
    _took_s: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._done |= {*self.recorded} & {*self.planned}

    def launches(self) -> Iterator[Planned]:
        """Those to be made, one after the other; `ended` is called in between.

        A release that has failed is tried again in the next block, and then no more.
        """
        for launch in self.planned:
            if launch not in self._done and not self.is_given_up(launch.release):
                yield launch

    def ended(self, launch: Planned, failed: bool, seconds: float) -> None:
        """Note how a launch ended."""
        self._took_s.append(seconds)
        if failed:
            self._failures[launch.release] += 1
        else:
            self._failures[launch.release] = 0
            self._done.add(launch)

    def is_given_up(self, release: str) -> bool:
        """Whether a release has failed twice in a row."""
        return self._failures[release] > 1

    def comes_again(self, launch: Planned) -> bool:
        """Whether a release is launched in a later block than that of `launch`."""
        later = [of for of in self.open if of.block > launch.block]
        return not self.is_given_up(launch.release) and launch.release in {
            of.release for of in later
        }

    @property
    def open(self) -> list[Planned]:
        """Launches that are not recorded."""
        return [launch for launch in self.planned if launch not in self._done]

    @property
    def left_s(self) -> float | None:
        """Seconds for what is open, by the launches so far; None before the first has ended."""
        if not self._took_s:
            return None
        more = sum(not self.is_given_up(launch.release) for launch in self.open)
        return more * sum(self._took_s) / len(self._took_s)
