"""The fingerprint of a measurement: what may explain a change. An allow-list: no environment variable, path or user name."""

import datetime
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytest_energy import __version__
from pytest_energy.safety import redact


def host() -> dict[str, Any]:
    """CPU model, core count, kernel, CPU governor and one-minute load of this host."""
    described: dict[str, Any] = {
        "cpu_model": _cpu_model(),
        "cpu_count": os.cpu_count(),
        "kernel": platform.release(),
        "load_1min": round(os.getloadavg()[0], 2),
    }
    governor = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    if governor.is_file():
        described["cpu_governor"] = governor.read_text().strip()
    return described


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.machine()


def fingerprint(
    versions: Mapping[str, Any],
    engine_settings: Mapping[str, Any],
    engine_args_under_test: Mapping[str, Any],
    gpu: Mapping[str, Any],
    synthetic_weights: Mapping[str, Any],
) -> dict[str, Any]:
    """All of it, as recordings and baselines keep it.

    Args:
        versions: of the engine's environment ("vllm", "torch", "cuda", "python", "packages").
        engine_settings: as the engine resolved them.
        engine_args_under_test: those given on the command line.
        gpu: as the meter describes it.
        synthetic_weights: what was seen of them at work; empty where there is nothing to tell.
    """
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "pytest_energy": __version__,
        **{
            name: versions[name]
            for name in ("vllm", "torch", "cuda", "python", "packages")
            if name in versions
        },
        "engine_settings": redact.paths(engine_settings),
        "engine_args_under_test": redact.paths(engine_args_under_test),
        **({"synthetic_weights": dict(synthetic_weights)} if synthetic_weights else {}),
        **gpu,
        "host": host(),
    }


def upgraded(content: Any) -> Any:
    """A fingerprint as an earlier version wrote it, under today's names."""
    if not isinstance(content, dict) or "made_up_weights" not in content:
        return content
    return {
        "synthetic_weights" if name == "made_up_weights" else name: value
        for name, value in content.items()
    }
