"""The same checks around each cell of a live run: one look before the load, one after the meter has stopped.

Only what may make a measurement invalid and is not judged by the meter's own samples: a GPU that is lost or cut into slices,
a power limit that is changed, memory errors that come up, a machine that sleeps. Six driver calls a GPU and look.
"""

from collections.abc import Sequence

from pytest_energy.health import judging, reading
from pytest_energy.health.facts import GpuFacts
from pytest_energy.meters.nvml import Listed

_WANTED = ("power_limit_w", "enforced_power_limit_w", "mig", "ecc_uncorrected")


class Guard:
    """Looks at GPUs when made and when asked.

    Args:
        gpu_uuids: the engine's. What the driver does not know, or does not tell, is not judged: the meter is for that.
    """

    def __init__(self, gpu_uuids: Sequence[str]) -> None:
        self._before = {uuid: facts for uuid in gpu_uuids if (facts := _look(uuid)) is not None}
        self._suspended_s = reading.suspended_s()

    def faults_before(self) -> list[str]:
        """What makes it pointless to measure, as a recording keeps it."""
        return [
            fault
            for facts in self._before.values()
            for fault in judging.faults(judging.changes(facts, facts))
        ]

    def faults(self) -> list[str]:
        """What was found before, and what has changed until now, as a recording keeps it."""
        suspended = judging.suspension(self._suspended_s, reading.suspended_s())
        return judging.faults(
            [
                *suspended,
                *(
                    f
                    for uuid, facts in self._before.items()
                    for f in judging.changes(facts, _again(uuid, facts))
                ),
            ]
        )


def _look(uuid: str) -> GpuFacts | None:
    """None where there is no driver, or no such GPU."""
    facts = reading.read_gpu(Listed(-1, uuid, ""), _WANTED)
    return None if facts.unknown else facts


def _again(uuid: str, before: GpuFacts) -> GpuFacts:
    """The second look; a call that failed just once is not held against the GPU."""
    after = reading.read_gpu(Listed(-1, uuid, ""), _WANTED)
    if after.lost or any(getattr(before, name) is not None for name in after.unreadable):
        after = reading.read_gpu(Listed(-1, uuid, ""), _WANTED)
    return after
