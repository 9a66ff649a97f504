"""What accompanies a GPU's energy counter, each read singly by the first call that the driver has.

Drivers and GPUs differ: NVML's nvml.h says that NVML_FI_DEV_POWER_AVERAGE is "supported on Ampere
(except GA100) or newer architectures", and that nvmlDeviceGetPowerUsage returns the mean of one
second there and "instantaneous power" on GA100 and older. Drivers of the 550 branch have no
nvmlDeviceGetTemperatureV, those before 535 no nvmlDeviceGetCurrentClocksEventReasons.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal

# What a verdict needs if the driver reports it; the others only explain.
NEEDED = ("average_power_mw", "throttle_reasons", "utilization_percent")
Ask = Callable[[Any, int], int]  # of a GPU's handle and the scope of its energy counter


class Unsupported(Exception):
    """The driver has no call for a reading of this GPU; the message names the last one tried."""


class Unreadable(Exception):
    """A call failed; the message names it and says why."""


def _nvml() -> Any:
    import pynvml

    return pynvml


def average_power_mw(handle: Any, scope: int) -> int:
    """The driver's mean of the last second, of GPU or module (NVML_POWER_SCOPE_*).

    Raises:
        NVMLError: it cannot be read. So does 0 W, which no GPU draws.
    """
    nvml = _nvml()
    value = nvml.nvmlDeviceGetFieldValues(handle, [(nvml.NVML_FI_DEV_POWER_AVERAGE, scope)])[0]
    if value.nvmlReturn != nvml.NVML_SUCCESS:
        raise nvml.NVMLError(value.nvmlReturn)
    if not value.value.uiVal:
        raise nvml.NVMLError(nvml.NVML_ERROR_NOT_SUPPORTED)
    return int(value.value.uiVal)


def _temperature(function: str) -> Ask:
    return lambda handle, _: getattr(_nvml(), function)(handle, _nvml().NVML_TEMPERATURE_GPU)


def _plain(function: str) -> Ask:
    return lambda handle, _: getattr(_nvml(), function)(handle)


_CALLS: Mapping[str, Mapping[str, Ask]] = {
    "average_power_mw": {
        "nvmlDeviceGetFieldValues(NVML_FI_DEV_POWER_AVERAGE)": average_power_mw,
        "nvmlDeviceGetPowerUsage": _plain("nvmlDeviceGetPowerUsage"),
    },
    "sm_clock_mhz": {
        "nvmlDeviceGetClockInfo": lambda handle, _: _nvml().nvmlDeviceGetClockInfo(
            handle, _nvml().NVML_CLOCK_SM
        ),
    },
    "temperature_c": {
        name: _temperature(name)
        for name in ("nvmlDeviceGetTemperatureV", "nvmlDeviceGetTemperature")
    },
    "throttle_reasons": {
        name: _plain(name)
        for name in (
            "nvmlDeviceGetCurrentClocksEventReasons",
            "nvmlDeviceGetCurrentClocksThrottleReasons",
        )
    },
    "utilization_percent": {
        "nvmlDeviceGetUtilizationRates": lambda handle, _: (
            _nvml().nvmlDeviceGetUtilizationRates(handle).gpu
        ),
    },
}
NAMES = tuple(_CALLS)


class Companions:
    """Reads one GPU.

    Args:
        handle: NVML's.
        scope: of its energy counter, NVML_POWER_SCOPE_*.
    """

    def __init__(self, handle: Any, scope: int = 0) -> None:
        self._handle, self._scope = handle, scope
        self._call: dict[str, str] = {}  # that the driver was found to have

    @property
    def power(self) -> Literal["average", "instant"]:
        """What its power readings are the mean of, a second or no time."""
        first = next(iter(_CALLS["average_power_mw"]))
        return "average" if self._call.get("average_power_mw", first) == first else "instant"

    def read(self, name: str) -> int:
        """One of NAMES.

        Raises:
            Unsupported: this driver does not report it.
            Unreadable: it does, and failed to.
        """
        why = ""
        for call, ask in _CALLS[name].items():
            if self._call.get(name, call) != call:
                continue
            try:
                value = int(ask(self._handle, self._scope))
            except Exception as error:  # also AttributeError: nvidia-ml-py may lack a call, too
                why = f"{call}: {error}"
                if not is_unsupported(error) or name in self._call:
                    raise Unreadable(why) from error
            else:
                self._call[name] = call
                return value
        raise Unsupported(why)


def is_unsupported(error: BaseException) -> bool:
    """Whether driver, GPU or nvidia-ml-py lack what was asked for."""
    nvml = _nvml()
    return isinstance(error, AttributeError) or getattr(error, "value", None) in (
        nvml.NVML_ERROR_NOT_SUPPORTED,
        nvml.NVML_ERROR_FUNCTION_NOT_FOUND,
        nvml.NVML_ERROR_INVALID_ARGUMENT,  # of a field that this driver does not know
        nvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH,
    )
