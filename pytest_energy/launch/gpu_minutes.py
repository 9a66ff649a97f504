"""How many GPU minutes a run may still use."""

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass
class GpuMinutes:
    """Counts the seconds of launches, each times its GPUs.

    Attributes:
        limit: minutes at most; None for no limit.
        clock: monotonic, in seconds.
    """

    limit: float | None
    clock: Callable[[], float]
    _used_s: float = 0.0
    _longest_s: float = 0.0

    @contextlib.contextmanager
    def counted(self, gpus: Callable[[], int]) -> Iterator[None]:
        """Count what runs inside as a launch.

        Args:
            gpus: how many it used, asked for at its end.
        """
        begun_s = self.clock()
        try:
            yield
        finally:
            seconds = (self.clock() - begun_s) * gpus()
            self._used_s += seconds
            self._longest_s = max(self._longest_s, seconds)

    @property
    def allow_another(self) -> bool:
        """Whether a launch as long as the longest so far would end in time."""
        return self._longest_s <= self.left_s

    @property
    def left_s(self) -> float:
        """Seconds that one GPU may still be used; several use them up faster."""
        return math.inf if self.limit is None else 60 * self.limit - self._used_s
