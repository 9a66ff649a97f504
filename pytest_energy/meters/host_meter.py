"""What an engine waits for on its host: CPU time that others got."""

import contextlib
import os
import threading
import time
from collections.abc import Collection
from pathlib import Path

from pytest_energy.recording.recording import HostSamples

_SAMPLE_EVERY_S = 1.0
_STEAL_FIELD = 8  # of the first line of /proc/stat, see proc_stat(5)


class HostMeter:
    """Reads in the background between `start` and `stop`, about once a second.

    What the kernel does not report, as in some containers, counts as 0.

    Args:
        pids: the engine's processes.
    """

    def __init__(self, pids: Collection[int]) -> None:
        self._pids = tuple(sorted(pids))
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin a series."""
        self._stop.clear()
        self._time_ns: list[int] = []
        self._steal_us: list[int] = []
        self._run_delay_us: list[int] = []
        self._thread = threading.Thread(target=self._poll, name="host-meter", daemon=True)
        self._thread.start()

    def _poll(self) -> None:
        steal_us, delays_us = steal_so_far_us(), run_delays_so_far_us(self._pids)
        while not self._stop.wait(_SAMPLE_EVERY_S):
            steal_before_us, steal_us = steal_us, steal_so_far_us()
            delays_before_us, delays_us = delays_us, run_delays_so_far_us(self._pids)
            self._time_ns.append(time.monotonic_ns())
            self._steal_us.append(max(0, steal_us - steal_before_us))
            self._run_delay_us.append(
                sum(
                    max(0, delay_us - delays_before_us.get(task, 0))
                    for task, delay_us in delays_us.items()
                )
            )

    def read(self) -> HostSamples:
        """The series so far."""
        count = len(self._run_delay_us)  # which is appended last
        return HostSamples(
            tuple(self._time_ns[:count]),
            tuple(self._steal_us[:count]),
            tuple(self._run_delay_us[:count]),
        )

    def stop(self) -> None:
        """End the series."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=10)
            self._thread = None


def steal_so_far_us() -> int:
    """CPU time that a hypervisor gave to others while this machine had work, all CPUs, µs."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        line = Path("/proc/stat").read_text().partition("\n")[0]
        return int(line.split()[_STEAL_FIELD]) * 1_000_000 // os.sysconf("SC_CLK_TCK")
    return 0


def run_delays_so_far_us(pids: Collection[int]) -> dict[str, int]:
    """How long each thread of these processes was ready and waited for a CPU, µs, by its path."""
    found = {}
    for pid in pids:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{pid}/task").iterdir():
                with contextlib.suppress(OSError, ValueError, IndexError):
                    delay_ns = int((task / "schedstat").read_text().split()[1])
                    found[str(task)] = delay_ns // 1000
    return found
