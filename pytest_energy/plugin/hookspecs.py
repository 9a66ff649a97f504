"""Hooks that a conftest.py or another plugin may implement."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest


@pytest.hookspec(firstresult=True)
def pytest_energy_open_meter(
    gpu_uuids: Sequence[str], is_engine_process: Callable[[int], bool]
) -> Any:
    """Open the meter that reads the engine's energy, a pytest_energy.meters.zeus_meter.Meter.

    Args:
        gpu_uuids: the GPUs that the engine runs on, as NVML spells them, in rank order.
        is_engine_process: whether a process id, as the driver gives it, belongs to the engine.
    """
