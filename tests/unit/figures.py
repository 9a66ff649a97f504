"""Measurements with chosen figures, without recordings."""

from collections.abc import Sequence
from typing import Any

from pytest_energy.cell.cell import Cell
from pytest_energy.measure.conditions import Conditions
from pytest_energy.measure.cycles import Cycles
from pytest_energy.measure.measurement import Measurement, Period
from pytest_energy.recording.fingerprint import Fingerprint
from pytest_energy.recording.recording import CoResident
from tests.simulated import GPU_NAME, UUID

CONDITIONS = Conditions(sm_clock_mhz=1980.0, temperature_c=50.0, power_cap_share=0.0)
PAUSED = CoResident(launch_id="other", seconds=1.0, tokens=0, paused=True, cpu_s=0.0)


def cycles(joules_per_token: Sequence[float], tokens_per_s: float = 1000.0) -> Cycles:
    """Cycles of a thousand tokens."""
    return Cycles(
        energy_j=tuple(1000 * energy for energy in joules_per_token),
        time_s=(1000 / tokens_per_s,) * len(joules_per_token),
        tokens=(1000,) * len(joules_per_token),
    )


def environment(**known: Any) -> Fingerprint:
    """Of a launch on the simulated GPU."""
    defaults = {"gpu_name": GPU_NAME, "gpu_uuids": (UUID,), "vllm": "1", "power_limit_w": 700.0}
    return Fingerprint(**{**defaults, **known})


def measurement(
    cell: Cell,
    launch_id: str = "launch",
    joules_per_token: float = 0.5,
    tokens_per_s: float = 1000.0,
    **changes: Any,
) -> Measurement:
    """A valid measurement of four equal cycles."""
    found = cycles([joules_per_token] * 4, tokens_per_s)
    fields: dict[str, Any] = {
        "key": cell.key,
        "launch_id": launch_id,
        "environment": environment(),
        "cycles": found,
        "gpu_energy_j": {UUID: sum(found.energy_j)},
        "conditions": CONDITIONS,
        "static_power_w": 120.0,
        "dropped_cycles": 0,
        "faults": (),
        "periods": (Period(found, 0),),
    }
    return Measurement(**{**fields, **changes})


def launches(
    cell: Cell, energies: Sequence[float], name: str = "candidate", **changes: Any
) -> list[Measurement]:
    """Launches with this J/token."""
    return [
        measurement(cell, f"{name}-{i}", energy, **changes) for i, energy in enumerate(energies)
    ]
