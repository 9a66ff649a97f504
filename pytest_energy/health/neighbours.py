"""Use of a GPU by others that no list of processes shows, as of another pod. Reads only.

Two signs tell: memory that nothing known holds, and utilization while the engine is idle or gone.
An idle H100 reports 0 % and 4 MiB, and half a second after the load 0 to 5 % in all 348 recordings
that show it (recordings/).
"""

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from pytest_energy.health import read_gpu
from pytest_energy.health.check_gpu import BUSY_PERCENT, HELD_MIB
from pytest_energy.health.facts import GpuFacts
from pytest_energy.meters.nvml import Listed, listed_uuids
from pytest_energy.meters.processes import OnGpus, compute_processes
from pytest_energy.recording.faults import fault

# Utilization is a mean of up to a second (nvml.h, nvmlUtilization_t), and high while the driver
# checks its memory after it was loaded (nvmlDeviceGetUtilizationRates).
_BUSY_FOR_S, _LOOK_EVERY_S = 3.0, 0.25
_MEMORY_FREED_S = 10.0  # after a process has ended
_WANTED = ("memory_used_mib", "utilization_percent")


@dataclass(frozen=True)
class Look:
    """GPUs at one moment, by UUID.

    Attributes:
        processes: on each.
        facts: memory and utilization of each.
    """

    processes: OnGpus
    facts: Mapping[str, GpuFacts]

    @classmethod
    def now(cls, gpu_uuids: Collection[str]) -> "Look":
        """What can be read of these GPUs, without waiting."""
        return cls(compute_processes(), {uuid: _read(uuid) for uuid in gpu_uuids})

    @classmethod
    def when_idle(cls) -> "Look":
        """The look before a launch, at all GPUs, since on which an engine will be is not known.

        Those in use are read again for three seconds, because an engine that has just ended gives
        its memory back meanwhile.
        """
        look = cls.now(listed_uuids())
        in_use = when_idle(look.facts, lambda f: _is_busy(f) or (f.memory_used_mib or 0) > HELD_MIB)
        return cls(compute_processes() if look.facts != in_use else look.processes, in_use)

    def held_mib(self, gpu_uuid: str) -> int | None:
        """Memory in use on a GPU; None if unknown."""
        facts = self.facts.get(gpu_uuid)
        return None if facts is None else facts.memory_used_mib


def _read(gpu_uuid: str) -> GpuFacts:
    return read_gpu.read_gpu(Listed(-1, gpu_uuid, ""), _WANTED)


def _is_busy(facts: GpuFacts) -> bool:
    return facts.utilization_percent is not None and facts.utilization_percent > BUSY_PERCENT


def when_idle(
    facts: Mapping[str, GpuFacts], in_use: Callable[[GpuFacts], bool] = _is_busy
) -> dict[str, GpuFacts]:
    """Facts of GPUs that should be idle; those in use are read again for three seconds.

    One that then fails to be read is taken to be as it was.
    """
    found, end_s = dict(facts), time.monotonic() + _BUSY_FOR_S
    while (busy := [uuid for uuid in found if in_use(found[uuid])]) and time.monotonic() < end_s:
        time.sleep(_LOOK_EVERY_S)
        again = {uuid: _read(uuid) for uuid in busy}
        found |= {uuid: f for uuid, f in again.items() if not f.lost and not f.unreadable}
    return found


def busy_percent(gpu_uuid: str, facts: GpuFacts) -> int | None:
    """The utilization of a GPU that should be idle, if it stays above 5 %; else None.

    Args:
        gpu_uuid: the GPU.
        facts: as just read. Only if they show a busy GPU is it read again, for three seconds.
    """
    last = when_idle({gpu_uuid: facts})[gpu_uuid]
    return last.utilization_percent if _is_busy(last) else None


def is_held(gpu_uuids: Collection[str]) -> bool:
    """Whether any process is listed on these GPUs, or much of their memory is in use."""
    look = Look.now(gpu_uuids)
    return any(look.processes.get(gpu) or (look.held_mib(gpu) or 0) > HELD_MIB for gpu in gpu_uuids)


def before_launch(gpu_uuids: Collection[str], before: Look) -> list[str]:
    """Faults of GPUs that were in use before the engine was launched, by no listed process."""
    found = []
    for gpu in gpu_uuids:
        facts, held_mib = before.facts.get(gpu), before.held_mib(gpu) or 0
        if facts is None or before.processes.get(gpu):
            continue  # a process that is listed is a fault of its own
        if held_mib > HELD_MIB:
            found.append(_hidden(gpu, f"{held_mib:,} MiB of memory were in use before the launch"))
        elif _is_busy(facts):
            what = f"the GPU was busy {facts.utilization_percent} % of the time before the launch"
            found.append(_hidden(gpu, what))
    return found


def without_model(gpu_uuids: Collection[str]) -> dict[str, int]:
    """GPUs that no engine can be on, and their memory in use, MiB: little, by no process."""
    look = Look.now(gpu_uuids)
    return {
        gpu: held_mib
        for gpu in gpu_uuids
        if look.processes.get(gpu) == frozenset()
        and (held_mib := look.held_mib(gpu)) is not None
        and held_mib <= HELD_MIB
    }


def after_engine(gpu_uuids: Collection[str], before: Look) -> list[str]:
    """Faults of what came while an engine was there and is still there without it.

    Args:
        gpu_uuids: the GPUs of the engine, which has ended.
        before: the launch.
    """
    end_s = time.monotonic() + _MEMORY_FREED_S
    while (found := _left(gpu_uuids, before, Look.now(gpu_uuids))) and time.monotonic() < end_s:
        time.sleep(_LOOK_EVERY_S)
    if found:
        return found
    return [
        _hidden(gpu, f"the GPU was busy {busy} % of the time after the engine had ended")
        for gpu in gpu_uuids
        if gpu in before.facts and (busy := busy_percent(gpu, _read(gpu))) is not None
    ]


def _left(gpu_uuids: Collection[str], before: Look, after: Look) -> list[str]:
    found = []
    for gpu in gpu_uuids:
        processes = after.processes.get(gpu) or frozenset()
        came = sorted(processes - (before.processes.get(gpu) or frozenset()))
        if came and before.processes.get(gpu) is not None:
            pids = ", ".join(map(str, came))
            found.append(fault("foreign_process", f"pid {pids} came with the engine and stayed"))
        held_mib, held_before_mib = after.held_mib(gpu), before.held_mib(gpu)
        if held_mib is None or held_before_mib is None or held_mib <= held_before_mib + HELD_MIB:
            continue
        what = f"{held_mib - held_before_mib:,} MiB of memory were taken with the engine and stayed"
        found.append(_hidden(gpu, what))
    return found


def _hidden(gpu_uuid: str, what: str) -> str:
    return fault("hidden_process", f"{gpu_uuid}: {what}, by no process that is listed")
