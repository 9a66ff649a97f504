"""What the doctor can find, each declared once: its code, check, level and meaning.

docs/generated/findings.md is written from FINDINGS. A new finding takes its entry here, its fact
in facts.py and read_gpu.py (or read_host.py), and its check in check_gpu.py (or check_host.py).
What makes a measurement invalid is declared in recording/faults.py.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass


class Level(enum.StrEnum):
    """How severe a finding is. Only a fault makes the doctor exit with status 1."""

    OK = "ok"
    WARNING = "warning"
    FAULT = "fault"


@dataclass(frozen=True)
class Kind:
    """A finding that a check can make.

    Attributes:
        check: name of the check; empty for what any check can find.
        level: how severe it is.
        meaning: when it is found, for the documentation.
    """

    check: str
    level: Level
    meaning: str


_WARNING, _FAULT = Level.WARNING, Level.FAULT
DRIVER, GPUS, ANSWERS, COUNTER = "driver", "GPUs", "answers", "energy counter"
SAMPLES = "samples"
PERSISTENCE, POWER_LIMIT, CLOCKS, TEMPERATURE = (
    "persistence",
    "power limit",
    "clocks",
    "temperature",
)
MIG, ECC, MEMORY_ROWS, COMPUTE_MODE = "MIG", "ECC", "memory rows", "compute mode"
PROCESSES, LOCK = "processes", "lock"
CPU, GOVERNOR, LOAD, MEMORY, DISK = "CPU", "governor", "load", "memory", "disk"
VLLM = "vLLM"
REFERENCE = "reference"

FINDINGS: Mapping[str, Kind] = {
    "no_driver": Kind(
        DRIVER, _FAULT, "NVIDIA's library is missing, or the driver does not respond"
    ),
    "gpus_unlisted": Kind(GPUS, _FAULT, "the driver cannot count its GPUs"),
    "no_gpu": Kind(GPUS, _FAULT, "no GPU is listed, or `CUDA_VISIBLE_DEVICES` hides all of them"),
    "gpu_unknown": Kind(
        GPUS,
        _WARNING,
        "`CUDA_VISIBLE_DEVICES` names an unknown GPU; CUDA hides it and all that follow",
    ),
    "gpu_lost": Kind(
        ANSWERS, _FAULT, "the GPU no longer responds (it fell off the bus or needs a reset)"
    ),
    "gpu_forbidden": Kind(
        ANSWERS, _WARNING, "access to a GPU that was not named is forbidden, to another it is not"
    ),
    "no_counter": Kind(COUNTER, _FAULT, "the GPU has no energy counter (older than Volta)"),
    "counter_unreadable": Kind(COUNTER, _FAULT, "the driver refuses or fails to read it"),
    "counter_stuck": Kind(COUNTER, _FAULT, "it was updated less than three times in two seconds"),
    "counter_backwards": Kind(COUNTER, _FAULT, "it ran backwards"),
    "counter_disagrees": Kind(
        COUNTER, _FAULT, "over two seconds it and the power readings differ by over 20 % and 20 W"
    ),
    "power_unreadable": Kind(COUNTER, _FAULT, "there is no power reading to check it against"),
    "counter_slow": Kind(
        COUNTER, _WARNING, "it is updated less often than every 0.3 s (H100 and H200: every 0.1 s)"
    ),
    "sample_unreadable": Kind(
        SAMPLES, _FAULT, "throttle reasons or utilization exist, but cannot be read"
    ),
    "persistence_off": Kind(PERSISTENCE, _WARNING, "the driver unloads when the GPU is unused"),
    "power_limit_not_default": Kind(POWER_LIMIT, _WARNING, "it is not the GPU's default"),
    "power_capped": Kind(
        POWER_LIMIT, _WARNING, "something other than the driver enforces a lower limit"
    ),
    "throttled": Kind(
        CLOCKS,
        _FAULT,
        "a thermal or hardware slowdown or the power brake is active; the software power cap is "
        "normal and not a fault",
    ),
    "clocks_set": Kind(
        CLOCKS, _WARNING, "application clocks, sync boost or display clocks are set"
    ),
    "hot": Kind(TEMPERATURE, _WARNING, "over 65 °C, assuming that the GPU is idle"),
    "mig_enabled": Kind(
        MIG, _FAULT, "the GPU is split into slices, whose energy cannot be separated"
    ),
    "mig_pending": Kind(MIG, _WARNING, "it will be on after the next reset"),
    "ecc_off": Kind(ECC, _WARNING, "it is off"),
    "ecc_pending": Kind(ECC, _WARNING, "its mode will change at the next reboot"),
    "ecc_errors": Kind(ECC, _WARNING, "uncorrectable errors since the driver was loaded"),
    "rows_pending": Kind(MEMORY_ROWS, _WARNING, "a faulty row will be remapped at the next reset"),
    "rows_failed": Kind(MEMORY_ROWS, _WARNING, "a faulty row could not be remapped"),
    "compute_prohibited": Kind(COMPUTE_MODE, _FAULT, "no program may use the GPU"),
    "compute_exclusive": Kind(
        COMPUTE_MODE, _WARNING, "one process at a time: two interleaved engines cannot share it"
    ),
    "foreign_process": Kind(
        PROCESSES,
        _FAULT,
        "a compute process is on the GPU (a server meant for `--energy-url` counts, too); names "
        "are shown outside containers only, since the driver reports the host's process ids",
    ),
    "processes_unreadable": Kind(
        PROCESSES, _FAULT, "they cannot be listed, so the gate could not check for them either"
    ),
    "gpu_in_use": Kind(
        PROCESSES, _WARNING, "it is in use, and another run of pytest-energy holds the GPU's lock"
    ),
    "hidden_process": Kind(
        PROCESSES, _FAULT, "none is listed, but over 2 GiB of memory is used or the GPU is busy"
    ),
    "gpu_locked": Kind(LOCK, _WARNING, "another run is measuring on this GPU"),
    "out_of_band": Kind(
        REFERENCE, _WARNING, "the reference's J/token left the band of its earlier launches here"
    ),
    "few_cores": Kind(CPU, _WARNING, "fewer than four cores are usable (affinity, cgroup)"),
    "cpu_governor": Kind(GOVERNOR, _WARNING, "it is not `performance`"),
    "cpu_busy": Kind(LOAD, _WARNING, "the one-minute load exceeds half of the cores"),
    "low_memory": Kind(MEMORY, _WARNING, "less than 16 GiB is available, or left by the cgroup"),
    "disk_low": Kind(DISK, _WARNING, "less than 2 GiB is free for temporary files"),
    "disk_full": Kind(DISK, _FAULT, "less than 64 MiB is free for temporary files"),
    "clock_stands": Kind(CLOCKS, _FAULT, "CLOCK_MONOTONIC does not advance"),
    "clock_coarse": Kind(CLOCKS, _FAULT, "CLOCK_MONOTONIC advances in steps of more than 1 µs"),
    "clock_slow": Kind(
        CLOCKS, _WARNING, "the kernel's clock source is slow to read (hpet, acpi_pm)"
    ),
    "clock_wrong": Kind(CLOCKS, _WARNING, "the date cannot be right"),
    "clock_stepped": Kind(
        CLOCKS, _WARNING, "the wall clock is being adjusted; no measurement uses it"
    ),
    "python_unusable": Kind(VLLM, _FAULT, "the interpreter does not start"),
    "vllm_timeout": Kind(VLLM, _FAULT, "importing it took more than five minutes"),
    "no_vllm": Kind(VLLM, _FAULT, "it is not installed there"),
    "vllm_broken": Kind(VLLM, _FAULT, "importing it fails"),
    "vllm_old": Kind(VLLM, _WARNING, "older than 0.5.4"),
    "unreadable": Kind("", _WARNING, "the fact exists, but the driver fails to read it"),
}


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        subject: "driver", a GPU's UUID, "host" or "engine".
        check: which check it was.
        level: how severe it is.
        what: what was found and, unless it is ok, what that means.
        code: stable name of what is not ok, a key of FINDINGS; empty if it is ok.
        remedy: what to do or type; empty if it is ok.
    """

    subject: str
    check: str
    level: Level
    what: str
    code: str = ""
    remedy: str = ""


def ok(subject: str, check: str, what: str) -> Finding:
    """A check that found nothing wrong."""
    return Finding(subject, check, Level.OK, what)


def found(subject: str, code: str, what: str, remedy: str, check: str = "") -> Finding:
    """A warning or a fault, as FINDINGS declares it; `check` for a code that is of no one check."""
    kind = FINDINGS[code]
    return Finding(subject, kind.check or check, kind.level, what, code, remedy)
