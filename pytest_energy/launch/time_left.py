"""How long a live run still takes: an estimate from the launches so far."""

import collections
import contextlib
import math
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass

from pytest_energy.launch.load import Progress
from pytest_energy.settings import MIN_LAUNCHES, Settings

# An 8B model on an H100. Once a launch has ended, its time over what these predict scales them.
_LOAD_S = 60.0
_CELL_S = 25.0


@dataclass
class TimeLeft:
    """From the fewest launches that can decide to the most that are allowed.

    Attributes:
        settings: of the run.
        groups: of each cell what it shares with those that share its launch.
        clock: monotonic, in seconds.
    """

    settings: Settings
    groups: Iterable[Hashable]
    clock: Callable[[], float]
    _ends_s: float = 0.0
    _further_s: tuple[float, float] = (0.0, 0.0)
    _took_s: float = 0.0
    _predicted_s: float = 0.0

    def __post_init__(self) -> None:
        self._to_begin = collections.Counter(self.groups)

    @contextlib.contextmanager
    def launch(
        self, group: Hashable, cells: int, number: int, allowed_s: float = math.inf
    ) -> Iterator[None]:
        """What runs inside is a launch, or a pair, of so many cells; the group's number-th.

        Args:
            group, cells, number: as said.
            allowed_s: what launches may take from its begin on; one that has begun is ended.
        """
        begun_s = self.clock()
        predicted_s = self._prediction_s(cells)
        self._to_begin.pop(group, None)
        others_s = sum(map(self._prediction_s, self._to_begin.values()))
        self._ends_s = begun_s + predicted_s * self._scale
        fewest, most = self._launches()
        low_s, high_s = (
            max(0, launches - number) * predicted_s + launches * others_s
            for launches in (fewest, most)
        )
        most_s = max(0.0, allowed_s - predicted_s * self._scale)
        self._further_s = min(low_s * self._scale, most_s), min(high_s * self._scale, most_s)
        yield
        self._took_s += self.clock() - begun_s
        self._predicted_s += predicted_s

    def in_words(self) -> str:
        """As "2 to 12 min left"."""
        launch_s = max(0.0, self._ends_s - self.clock())
        low, high = (max(1, math.ceil((launch_s + s) / 60)) for s in self._further_s)
        return f"{low} min left" if low == high else f"{low} to {high} min left"

    def told(self, progress: Progress) -> Progress:
        """Tells it before each text."""
        return lambda text: progress(f"{self.in_words()}: {text}")

    @property
    def _scale(self) -> float:
        return self._took_s / self._predicted_s if self._predicted_s else 1.0

    def _prediction_s(self, cells: int) -> float:
        sides = 2 if self.settings.paired else 1
        load_s = _LOAD_S if self.settings.launch.url is None else 0.0
        return sides * (load_s + cells * _CELL_S)

    def _launches(self) -> tuple[int, int]:
        """The fewest and the most of a group."""
        most = self.settings.launches
        if self.settings.exactly:
            return most, most
        several = self.settings.paired or self.settings.update
        return min(most, MIN_LAUNCHES if several else 1), most
