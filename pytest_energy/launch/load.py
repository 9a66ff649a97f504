"""One cell's load on an engine: its steps are counted until enough is measured."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from pytest_energy.cell.cell import Cell
from pytest_energy.cell.plan import Plan
from pytest_energy.engines.engine import Engine, Steps
from pytest_energy.recording.recording import TokenCounter

_COUNTED_S = 0.65  # until the meter, which reads twice a second, has seen the next counter update
_READ_S = 0.5  # between two reads, which looks at shorter cycles wait for
_BRIEF_S = 1.0  # the load of a cell with a fault before it
_FIRST_LOOK = 2  # whole cycles, the warm-up among them

Progress = Callable[[str], None]


@dataclass
class Load:
    """The steps of a load so far.

    Attributes:
        engine: under this load.
        cell: that is measured.
        plan: the load's requests.
        progress: called with a few words on what is going on.
    """

    engine: Engine
    cell: Cell
    plan: Plan
    progress: Progress
    _time_ns: list[int] = field(default_factory=list)
    _tokens: list[int] = field(default_factory=list)
    _finished: list[int] = field(default_factory=list)
    _total: int = 0
    _ended: int = 0

    def add(self, steps: Steps) -> None:
        """Count these steps."""
        self._time_ns += steps.time_ns
        self._tokens += steps.tokens
        self._finished += steps.finished
        self._total += sum(steps.tokens)
        self._ended += sum(steps.finished)

    @property
    def counter(self) -> TokenCounter:
        """The tokens so far."""
        return TokenCounter(tuple(self._time_ns), tuple(self._tokens), tuple(self._finished))

    @property
    def last_ns(self) -> int:
        """The time of the last step, ns."""
        return self._time_ns[-1]

    def drive_briefly(self) -> None:
        """For a cell with a fault: just so long that its shortness adds no further faults."""
        end = time.monotonic() + _BRIEF_S
        while time.monotonic() < end:
            self.add(self.engine.take_steps())

    def drive(self, is_enough: Callable[[int], bool], looks_per_cycle: int) -> None:
        """Count steps until `is_enough(whole cycles)` says so.

        It is asked `looks_per_cycle` times a cycle, from the second whole one on, but not more
        often than the meter reads, and as soon as the energy of each further cycle must have been
        counted.
        """
        next_look, reported, whole, counted_s = float(_FIRST_LOOK), 0.0, _FIRST_LOOK, math.inf
        looked_s = -math.inf
        while True:
            self.add(self.engine.take_steps())
            cycles = self.plan.cycles(self._total, self._ended)
            if int(cycles) > whole:
                whole, counted_s = int(cycles), time.monotonic() + _COUNTED_S
            if time.monotonic() - reported > 1.0:
                reported = time.monotonic()
                self._report(cycles)
            now_s = time.monotonic()
            counted_now = now_s >= counted_s
            if counted_now or (cycles >= next_look and now_s >= looked_s + _READ_S):
                if is_enough(int(cycles)):
                    return
                next_look, looked_s = cycles + 1 / looks_per_cycle, now_s
                counted_s = math.inf if counted_now else counted_s

    def _report(self, cycles: float) -> None:
        elapsed_s = (self._time_ns[-1] - self._time_ns[0]) / 1e9
        phase = "warming up" if cycles < 1 else "measuring"
        unit = "blocks" if self.cell.workload.varies else "cycles"
        # The first step's tokens took a time that is not known.
        tokens = self._total - self._tokens[0]
        pace = f", {tokens / elapsed_s:,.0f} tokens/s" if elapsed_s else ""
        self.progress(f"{self.cell.name}: {phase}, {cycles:.1f} {unit}{pace}")
