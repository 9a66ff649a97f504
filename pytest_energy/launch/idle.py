"""An engine at idle: loaded, without a request, and left alone while the meter runs.

before the engine       loaded, settling        the window: 30 s
GPUs without a context │  IDLE_SETTLE_S  │ count ············ count │
"""

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pytest_energy.cell import cell as asked
from pytest_energy.engines.engine import Engine
from pytest_energy.errors import MeterError
from pytest_energy.launch.load import Progress
from pytest_energy.meters.zeus_meter import Meter
from pytest_energy.recording.counters import mean_power_w
from pytest_energy.recording.recording import Idle, TokenCounter

_ALONE_SETTLE_S = 3.0  # an engine that has just ended leaves the clocks up
_ALONE_S = 3.0
_TAIL_S = 1.5  # so that an update lies behind the window: they may be a second apart


def power_without_engine_w(
    gpu_uuids: Sequence[str], open_meter: Callable[[Sequence[str]], Meter]
) -> dict[str, float]:
    """Power of idle GPUs that no engine is on, W, by UUID; without those that cannot be read."""
    found: dict[str, float] = {}
    if not gpu_uuids:
        return found
    with contextlib.suppress(MeterError):
        meter = open_meter(gpu_uuids)
        time.sleep(_ALONE_SETTLE_S)
        meter.start()
        try:
            time.sleep(_ALONE_S)
        finally:
            meter.stop()
        for trace in meter.read():
            power_w = mean_power_w([trace])
            if power_w is not None:
                found[trace.uuid] = power_w
    return found


@dataclass
class AtIdle:
    """What is counted of an engine at idle.

    Attributes:
        engine: loaded, without load.
        name: of the cell.
        without_engine_w: of its GPUs before it was started; None if unknown.
        progress: called with a few words on what is going on.
    """

    engine: Engine
    name: str
    without_engine_w: float | None
    progress: Progress
    _time_ns: list[int] = field(default_factory=list)
    _tokens: list[int] = field(default_factory=list)
    _cpu_s: list[float] = field(default_factory=list)

    def watch(self, briefly: bool) -> int:
        """Leave the engine alone; returns when that ended, ns.

        Args:
            briefly: because it has a fault already.

        Raises:
            EngineError: it ended, or does not answer.
        """
        self._wait("settling", 0.0 if briefly else asked.IDLE_SETTLE_S)
        self._count()
        self._wait("measuring", _TAIL_S if briefly else asked.IDLE_S)
        self._count()
        time.sleep(_TAIL_S)
        return self._time_ns[-1]

    @property
    def counter(self) -> TokenCounter:
        """The tokens when the window began, which are none, and since then."""
        first, last = self._tokens
        return TokenCounter(tuple(self._time_ns), (0, max(0, last - first)), (0, 0))

    @property
    def facts(self) -> Idle:
        """What else was found."""
        seconds = (self._time_ns[-1] - self._time_ns[0]) / 1e9
        used_s = max(0.0, self._cpu_s[-1] - self._cpu_s[0])
        return Idle(self.without_engine_w, round(used_s / max(seconds, 1e-9), 4))

    def _count(self) -> None:
        self._tokens.append(self.engine.generated())
        self._time_ns.append(time.monotonic_ns())
        self._cpu_s.append(self.engine.cpu_s())

    def _wait(self, phase: str, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.progress(f"{self.name}: {phase}, {left:.0f} s left")
            time.sleep(min(1.0, left))
