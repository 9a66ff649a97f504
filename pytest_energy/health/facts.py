"""What can be known about a machine. None: not reported by this driver or kernel."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Process:
    """A compute process on a GPU: the driver's process id, and its name if that can be seen."""

    pid: int
    name: str | None = None


@dataclass(frozen=True)
class CounterWatch:
    """The energy counter, watched for a moment.

    Attributes:
        updates: how many were seen.
        seconds: from the first update to the last.
        energy_j: counted in this time.
        period_s: median time between updates; None with fewer than two.
        power_w: mean of the meter's power readings in this time; None without any.
        power_error: why there are none, in the driver's words, if it does not report any.
        of_module: whether the counter counts the GPU together with CPU and memory.
        backwards: whether it ran backwards.
        error: why it cannot be read, in the driver's words; empty if it can.
        supported: whether the GPU has one.
    """

    updates: int = 0
    seconds: float = 0.0
    energy_j: float = 0.0
    period_s: float | None = None
    power_w: float | None = None
    power_error: str = ""
    of_module: bool = False
    backwards: bool = False
    error: str = ""
    supported: bool = True


@dataclass(frozen=True)
class GpuFacts:
    """One GPU.

    Attributes:
        index, uuid, name: as the driver lists it.
        lost: the driver's words if the GPU does not respond; empty if it does.
        unknown: whether that is because there is no driver or no such GPU.
        unreadable: facts that exist but could not be read, with the driver's words.
        clock_reasons: nvmlDeviceGetCurrentClocksEventReasons, a bit mask.
        memory_used_mib: in use, except by the driver and by graphics processes.
        unlisted_memory_mib: of it, what listed compute processes do not hold, as far as is known.
        mig_pending, ecc_pending: the mode after the next reset or reboot.
        ecc_uncorrected: uncorrectable memory errors since the driver was loaded.
        rows_pending: whether memory rows will be remapped at the next reset.
        rows_failed: whether a row could not be remapped.
        compute_mode: NVML_COMPUTEMODE_*.
        processes: compute processes.
    """

    index: int = 0
    uuid: str = ""
    name: str = ""
    lost: str = ""
    unknown: bool = False
    unreadable: Mapping[str, str] = field(default_factory=dict)
    persistence: bool | None = None
    power_limit_w: float | None = None
    default_power_limit_w: float | None = None
    enforced_power_limit_w: float | None = None
    sm_clock_mhz: int | None = None
    max_sm_clock_mhz: int | None = None
    clock_reasons: int | None = None
    temperature_c: int | None = None
    utilization_percent: int | None = None
    memory_used_mib: int | None = None
    unlisted_memory_mib: int | None = None
    mig: bool | None = None
    mig_pending: bool | None = None
    ecc: bool | None = None
    ecc_pending: bool | None = None
    ecc_uncorrected: int | None = None
    rows_pending: bool | None = None
    rows_failed: bool | None = None
    compute_mode: int | None = None
    processes: tuple[Process, ...] | None = None


@dataclass(frozen=True)
class Lock:
    """Whether another run has locked a GPU, and how it describes itself."""

    held: bool = False
    holder: str = ""


@dataclass(frozen=True)
class DriverFacts:
    """The NVIDIA driver: its version and CUDA's.

    Attributes:
        error: why it does not respond, in its words; empty if it does.
        code: NVML's number for that.
    """

    version: str | None = None
    cuda: str | None = None
    error: str = ""
    code: int | None = None


@dataclass(frozen=True)
class HostFacts:
    """The host.

    Attributes:
        cpu_model, cores: of the machine.
        usable_cores: that this process may use (affinity and cgroup).
        governors: of all cores' frequencies; empty if not reported, as in virtual machines.
        load_1min: running processes, mean over a minute.
        memory_available_mib: what is available, or what the cgroup leaves if that is less.
        temporary_folder, disk_free_mib: where logs go while an engine runs.
    """

    cpu_model: str = ""
    cores: int | None = None
    usable_cores: float | None = None
    governors: tuple[str, ...] = ()
    load_1min: float | None = None
    memory_available_mib: int | None = None
    temporary_folder: str = ""
    disk_free_mib: int | None = None


@dataclass(frozen=True)
class ClockFacts:
    """The host's clocks, compared over a moment.

    Attributes:
        monotonic_s, wall_s: how far each advanced in the same moment.
        step_ns: the smallest step of CLOCK_MONOTONIC that was seen.
        year: according to the wall clock.
        source: the kernel's clock source; None if not reported.
    """

    monotonic_s: float
    wall_s: float
    step_ns: int
    year: int
    source: str | None = None


@dataclass(frozen=True)
class EngineFacts:
    """vLLM under an interpreter: versions, or the last line of the error.

    Attributes:
        error: empty if vLLM was imported.
        stage: of the error: "start", "import" or "timeout".
    """

    interpreter: str
    vllm: str | None = None
    torch: str | None = None
    python: str | None = None
    import_s: float | None = None
    error: str = ""
    stage: str = ""
