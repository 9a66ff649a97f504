"""Compute processes on the GPUs, by the driver's ids, and which of them are the engine's.

The driver's ids are those of the host. In a container they are others than ours, and may be equal
to that of a process or thread of ours by chance.
"""

import contextlib
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from pytest_energy.engines.cuda_device import uses_cuda
from pytest_energy.meters.nvml import list_gpus

_TRIES, _PAUSE_S = 3, 0.05
_INITIAL_PID_NAMESPACE = "pid:[4026531836]"  # PROC_PID_INIT_INO in Linux' include/linux/proc_ns.h

OnGpus = Mapping[str, frozenset[int] | None]


def compute_processes() -> dict[str, frozenset[int] | None]:
    """The driver's ids of compute processes on each GPU that can be reached, by UUID.

    None if the driver fails to list them; empty without a driver.
    """
    with contextlib.suppress(Exception):
        import pynvml

        return {
            gpu.uuid: _ids(pynvml.nvmlDeviceGetHandleByUUID(gpu.uuid))
            for gpu in list_gpus()
            if gpu.uuid
        }
    return {}


def _ids(handle: Any) -> frozenset[int] | None:
    """A list that fails once, as in a timeout, is asked for again."""
    import pynvml

    for number in range(_TRIES):
        with contextlib.suppress(pynvml.NVMLError):
            return frozenset(p.pid for p in pynvml.nvmlDeviceGetComputeRunningProcesses(handle))
        time.sleep(_PAUSE_S * (number < _TRIES - 1))
    return None


def in_initial_namespace() -> bool:
    """Whether our process ids are the host's."""
    with contextlib.suppress(OSError):
        return str(Path("/proc/self/ns/pid").readlink()) == _INITIAL_PID_NAMESPACE
    return False


def unlisted(gpu_uuids: Collection[str], before: OnGpus, after: OnGpus) -> list[str]:
    """Those of the GPUs whose processes are not known both before the launch and after it.

    What the driver knows in neither is the meter's task.
    """
    return [
        gpu
        for gpu in gpu_uuids
        if (gpu in before or gpu in after) and None in (before.get(gpu), after.get(gpu))
    ]


def membership(
    gpu_uuids: Collection[str], ours: Collection[int], before: OnGpus, after: OnGpus
) -> Callable[[int], bool]:
    """Tells the engines' processes on the GPUs from others.

    A process counts as an engine's if it appeared on the GPU while the engines loaded and is not
    known to be another. Any does on GPUs whose processes are not known, for lack of evidence.

    Args:
        gpu_uuids: the engines' GPUs.
        ours: ids of the engines' processes.
        before, after: the processes before the first engine was started and with all loaded.
    """
    if unlisted(gpu_uuids, before, after):
        return lambda pid: True
    appeared = {
        pid
        for gpu in gpu_uuids
        for pid in (after.get(gpu) or frozenset()) - (before.get(gpu) or frozenset())
    }
    return frozenset(pid for pid in appeared if pid in ours or not _is_another(pid)).__contains__


def _is_another(pid: int) -> bool:
    """Whether the driver's id is known to be of a process that is not the engine's."""
    try:
        status = Path(f"/proc/{pid}/status").read_bytes()  # its name may be any bytes
    except OSError:
        return False  # not one of ours
    if b"\nTgid:\t%d\n" % pid not in status:
        return False  # here, it is the id of a thread
    return uses_cuda(pid) is not False
