"""The look at GPUs and clocks around each cell of a live run, before the load and after it.

It finds only what may make a measurement invalid and what the meter's own samples do not show;
recording/faults.py declares it. It costs eight to eleven driver calls per GPU and look.
"""

from collections.abc import Sequence

from pytest_energy.health import check_gpu, neighbours, read_gpu, read_host
from pytest_energy.health.facts import GpuFacts
from pytest_energy.health.findings import Finding, Level
from pytest_energy.meters.nvml import Listed
from pytest_energy.recording.faults import fault

_WANTED = (
    "power_limit_w",
    "enforced_power_limit_w",
    "mig",
    "ecc_uncorrected",
    "unlisted_memory_mib",  # an engine may give back memory of its own
    "utilization_percent",
)
_SUSPENDED_S = 0.1


class Guard:
    """Looks at GPUs when made and when asked.

    Args:
        gpu_uuids: the engine's. What the driver does not know or does not report is not judged
            here: that is the meter's task.
    """

    def __init__(self, gpu_uuids: Sequence[str]) -> None:
        self._before = {uuid: facts for uuid in gpu_uuids if (facts := _look(uuid)) is not None}
        self._suspended_s = read_host.suspended_s()

    def faults_before(self) -> list[str]:
        """What makes measuring pointless, as a recording keeps it: "code: detail"."""
        return [line for facts in self._before.values() for line in changes(facts, facts)]

    def faults(self, may_be_busy: bool = False) -> list[str]:
        """What was found before and what has changed since, as a recording keeps it.

        Args:
            may_be_busy: whether the idle engine itself may keep the GPU busy; what others do is
                then found when it has ended.
        """
        found = suspension(self._suspended_s, read_host.suspended_s())
        for uuid, before in self._before.items():
            after = _again(uuid, before)
            found += changes(before, after)
            busy = None if may_be_busy else neighbours.busy_percent(uuid, after)
            if busy is not None:
                what = f"the GPU was busy {busy} % of the time when the engine was idle"
                found.append(fault("hidden_process", f"{uuid}: {what}"))
        return found


def _look(uuid: str) -> GpuFacts | None:
    """None if there is no driver or no such GPU."""
    facts = read_gpu.read_gpu(Listed(-1, uuid, ""), _WANTED)
    return None if facts.unknown else facts


def _again(uuid: str, before: GpuFacts) -> GpuFacts:
    """The second look; a call that fails just once is not held against the GPU."""
    after = read_gpu.read_gpu(Listed(-1, uuid, ""), _WANTED)
    if after.lost or any(getattr(before, name) is not None for name in after.unreadable):
        after = read_gpu.read_gpu(Listed(-1, uuid, ""), _WANTED)
    return after


def _first(findings: Sequence[Finding]) -> list[str]:
    return [fault(f.code, f"{f.subject}: {f.what}") for f in findings if f.level is Level.FAULT][:1]


def changes(before: GpuFacts, after: GpuFacts) -> list[str]:
    """The faults that two looks at one GPU show together."""
    found = _first([check_gpu.lost(facts) for facts in (before, after) if facts.lost])
    found += _first([check_gpu.mig(before), check_gpu.mig(after)])
    if after.lost:
        return found
    for name, words in (
        ("power_limit_w", "power limit"),
        ("enforced_power_limit_w", "enforced power limit"),
    ):
        first_w, last_w = getattr(before, name), getattr(after, name)
        if None not in (first_w, last_w) and abs(last_w - first_w) > check_gpu.POWER_LIMIT_W:
            what = f"the {words} was {first_w:.0f} W before the load and {last_w:.0f} W after it"
            found.append(fault("power_limit_changed", f"{after.uuid}: {what}"))
    errors = (after.ecc_uncorrected or 0) - (before.ecc_uncorrected or 0)
    if before.ecc_uncorrected is not None and after.ecc_uncorrected is not None and errors > 0:
        what = f"uncorrectable memory errors under load: {errors}"
        found.append(fault("ecc_errors", f"{after.uuid}: {what}"))
    freed_mib = (before.unlisted_memory_mib or 0) - (after.unlisted_memory_mib or 0)
    if after.unlisted_memory_mib is not None and freed_mib > check_gpu.HELD_MIB:
        what = f"{freed_mib:,} MiB of memory were given back under load, by no listed process"
        found.append(fault("hidden_process", f"{after.uuid}: {what}"))
    for name, why in sorted(after.unreadable.items()):
        if getattr(before, name) is not None:
            what = f"{name} could be read before the load, but not after it ({why})"
            found.append(fault("gpu_unreadable", f"{after.uuid}: {what}"))
    return found


def suspension(before_s: float, after_s: float) -> list[str]:
    """Whether the machine was suspended between two looks.

    A wall clock that is set is not a fault: no measurement uses it.

    Args:
        before_s, after_s: how far CLOCK_BOOTTIME is ahead of CLOCK_MONOTONIC, which stands still
            while the machine is suspended.
    """
    slept_s = after_s - before_s
    if slept_s <= _SUSPENDED_S:
        return []
    what = (
        f"the machine was suspended for {slept_s:.1f} s, which the energy counter includes and "
        "the measured time does not"
    )
    return [fault("suspended", f"host: {what}")]
