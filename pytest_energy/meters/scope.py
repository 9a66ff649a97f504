"""Whose energy a counter counts: the GPU's, or that of the module on which it sits with its CPU.

On Grace Hopper "the cumulative energy counter is for the entire chip/module" (Zeus, pull request
172), while NVML reports power of both (NVML_POWER_SCOPE_GPU, NVML_POWER_SCOPE_MODULE). So the
counter is compared with both wherever GPU and CPU are linked by NVLink-C2C.
"""

import contextlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pytest_energy.meters.companions import average_power_mw
from pytest_energy.meters.nvml import text

GPU, MODULE = 0, 1  # NVML_POWER_SCOPE_*
_WATCH_S, _LONGEST_WAIT_S, _READ_EVERY_S = 1.1, 2.0, 0.004  # the power is a mean of one second


def powers_w(handle: Any) -> dict[int, float]:
    """The power of GPU and module, W, of those that the driver reports; empty without a CPU."""
    if not _shares_module(handle):
        return {}
    found = {}
    for scope in (GPU, MODULE):
        with contextlib.suppress(Exception):
            found[scope] = average_power_mw(handle, scope) / 1000
    return found


def _shares_module(handle: Any) -> bool:
    with contextlib.suppress(Exception):
        import pynvml

        return bool(pynvml.nvmlDeviceGetC2cModeInfoV(handle).isC2cEnabled)
    return False


def fitting(counted_w: float | None, power_w: Mapping[int, float]) -> int:
    """The scope whose power is nearest to what the counter counts.

    The GPU's if no other is known; the module's if nothing was counted, as on Grace Hopper.
    """
    if not power_w:
        return GPU
    if counted_w is None:
        return max(power_w)
    return min(power_w, key=lambda scope: abs(power_w[scope] - counted_w))


def scope_of(handle: Any, energy_mj: Callable[[], int]) -> int:
    """The scope of a GPU's counter; where it may be either, watched for a second at steady power.

    Args:
        handle: NVML's.
        energy_mj: reads the counter.
    """
    if len(powers_w(handle)) < 2:
        return fitting(None, powers_w(handle))
    first = last = None
    with contextlib.suppress(Exception):  # the meter reports a counter that fails
        first = _next_update(energy_mj)
        time.sleep(_WATCH_S)
        last = _next_update(energy_mj)
    if first is None:
        return fitting(None, powers_w(handle))
    counted_w = (last[1] - first[1]) / 1000 / (last[0] - first[0]) if last is not None else None
    return fitting(counted_w, powers_w(handle))


def _next_update(energy_mj: Callable[[], int]) -> tuple[float, int] | None:
    """When the counter was updated next, and to what; None if it was not."""
    before, end_s = energy_mj(), time.monotonic() + _LONGEST_WAIT_S
    while (now_s := time.monotonic()) < end_s:
        value = energy_mj()
        if value != before:
            return now_s, value
        time.sleep(_READ_EVERY_S)
    return None


def module_of(handle: Any) -> str | None:
    """Tells modules apart by the CPU (NUMA node) that the GPU sits with; None if unknown."""
    with contextlib.suppress(Exception):
        import pynvml

        address = text(pynvml.nvmlDeviceGetPciInfo(handle).busId).lower()
        domain, _, rest = address.partition(":")
        path = Path(f"/sys/bus/pci/devices/{domain[-4:]}:{rest}/numa_node")
        node = path.read_text().strip()
        return node if not node.startswith("-") else None
    return None
