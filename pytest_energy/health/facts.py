"""What can be known of a machine. None: this driver or kernel does not tell."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Process:
    """A compute process on a GPU: the driver's process id, its name where it can be seen, its memory (MiB) where told."""

    pid: int
    name: str | None = None
    memory_mib: int | None = None


@dataclass(frozen=True)
class CounterWatch:
    """The energy counter, watched for a moment, between its first and its last update seen.

    Attributes:
        updates: how often it moved.
        seconds: from the first update to the last.
        energy_j: counted in this time.
        period_s: median time between updates; None with fewer than two.
        power_w: mean of power readings in this time; None where there were none.
        backwards: whether it ran backwards.
        error: why it cannot be read, in the driver's words; empty where it can.
        supported: whether the GPU has one.
    """

    updates: int = 0
    seconds: float = 0.0
    energy_j: float = 0.0
    period_s: float | None = None
    power_w: float | None = None
    backwards: bool = False
    error: str = ""
    supported: bool = True


@dataclass(frozen=True)
class GpuFacts:
    """One GPU.

    Attributes:
        index, uuid, name: as the driver lists it.
        lost: the driver's words where the GPU does not answer; empty where it does.
        unknown: whether that is because there is no driver, or it knows no such GPU.
        unreadable: facts that exist and could not be read, with the driver's words.
        clock_reasons: nvmlDeviceGetCurrentClocksEventReasons, a bit mask.
        memory_used_mib: without what the driver keeps for itself, where it tells these apart.
        mig_pending, ecc_pending: the mode after the next reset or reboot.
        ecc_uncorrected: memory errors since the driver was loaded that could not be corrected.
        rows_pending, rows_failed: whether memory rows wait for a reset to be replaced; whether no replacement was left.
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
    """Whether another run has locked a GPU, and who it says to be."""

    held: bool = False
    holder: str = ""


@dataclass(frozen=True)
class DriverFacts:
    """The NVIDIA driver: its version and CUDA's; `error` says why it does not answer, empty where it does."""

    version: str | None = None
    cuda: str | None = None
    error: str = ""


@dataclass(frozen=True)
class HostFacts:
    """The host.

    Attributes:
        cpu_model, cores: of the machine.
        usable_cores: that this process may use (affinity and cgroup).
        governors: of all cores' frequencies; empty where none is told, as in virtual machines.
        load_1min: running processes, mean over a minute.
        memory_available_mib: MemAvailable, or what the cgroup leaves where that is less.
        rapl_unavailable: why CPU energy cannot be read; empty where it can.
        temporary_folder, disk_free_mib: where logs go while an engine runs.
    """

    cpu_model: str = ""
    cores: int | None = None
    usable_cores: float | None = None
    governors: tuple[str, ...] = ()
    load_1min: float | None = None
    memory_available_mib: int | None = None
    rapl_unavailable: str = ""
    temporary_folder: str = ""
    disk_free_mib: int | None = None


@dataclass(frozen=True)
class ClockFacts:
    """The host's clocks, compared over a moment.

    Attributes:
        monotonic_s, wall_s: how far each went in the same moment.
        step_ns: the smallest step of CLOCK_MONOTONIC that was seen.
        year: by the wall clock.
        source: the kernel's clock source; None where not told.
    """

    monotonic_s: float
    wall_s: float
    step_ns: int
    year: int
    source: str | None = None


@dataclass(frozen=True)
class EngineFacts:
    """vLLM under an interpreter: versions, or the last line of what went wrong.

    Attributes:
        error: empty where vLLM was imported.
        stage: of the error: "start", "import" or "timeout".
    """

    interpreter: str
    vllm: str | None = None
    torch: str | None = None
    python: str | None = None
    import_s: float | None = None
    error: str = ""
    stage: str = ""
