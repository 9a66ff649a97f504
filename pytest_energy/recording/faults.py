"""Every fault that makes a measurement invalid, declared once.

A recording or a measurement keeps a fault as one line, "code: detail". Those that a recording shows
are found by measure/checks.py. Those that only a live run can see, such as another process on the
GPU, are noted in the recording by the meter (meters/), by the look at the GPU around each cell
(health/) or by the launch (launch/). To add a fault, declare it here and report it there: every
measurement that has it is then *invalid*. So is one with a code that is not declared.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """One kind of fault.

    Attributes:
        code: its stable name.
        meaning: what happened.
        more_cycles_help: whether measuring on can mend it; else a launch that has it ends its cell.
        no_figures: whether not even cycles can be computed.
        by_chance: whether an engine that is fit to be measured may have it now and then, so that
            another launch takes the place of one that has no other fault.
    """

    code: str
    meaning: str
    more_cycles_help: bool = False
    no_figures: bool = False
    by_chance: bool = False


FAULTS: Mapping[str, Fault] = {
    fault.code: fault
    for fault in (
        # The energy counter: found in the recording, or by the meter.
        Fault("no_counter", "no GPU was metered", no_figures=True),
        Fault("counter_unreadable", "the energy counter could not be read", no_figures=True),
        Fault("counter_stuck", "the energy counter was not updated", no_figures=True),
        Fault("counter_backwards", "the energy counter ran backwards", no_figures=True),
        Fault("counter_disagrees", "energy counter and power readings differ by more than 3 %"),
        # The meter's samples.
        Fault("sample_unreadable", "power, clock, temperature or utilization could not be read"),
        Fault("power_unsampled", "too few power readings to check the counter", True),
        Fault("gpu_idle", "a metered GPU was idle under load: it is not the engine's"),
        Fault("throttled", "a thermal or hardware slowdown or the power brake was active"),
        Fault("processes_unreadable", "the processes on the GPU could not be listed"),
        Fault("foreign_process", "another process was on the GPU"),
        Fault("hidden_process", "the GPU was in use by a process that is not listed"),
        # The look at the GPU before the load and after it (health/).
        Fault("gpu_lost", "the GPU did not answer"),
        Fault("gpu_unreadable", "a setting of the GPU could not be read after the load"),
        Fault("mig_enabled", "the GPU was cut into MIG slices"),
        Fault("power_limit_changed", "the power limit was changed during the load"),
        Fault("ecc_errors", "uncorrectable memory errors occurred"),
        Fault("suspended", "the machine was suspended during the load"),
        # The engine.
        Fault("engine_unknown", "the engine's version is not recorded"),
        Fault("too_short", "too few whole cycles", True),
        Fault("unsteady", "power or tokens/s changed while the cell was measured", by_chance=True),
        Fault("implausible", "figures that no engine on a GPU can have", no_figures=True),
        Fault("batch_not_full", "requests waited or were preempted"),
        Fault("kv_cache_too_small", "the KV cache cannot hold the batch"),
        # A server's clients.
        Fault("tokens_disagree", "clients and server counted different numbers of tokens"),
        Fault("client_busy", "the clients may have slowed the server down"),
        Fault("not_idle", "an engine that had to be idle, or paused, was not"),
        # Interleaved engines.
        Fault("periods_differ", "the periods of a launch ran on different GPUs", no_figures=True),
    )
}


def fault(code: str, detail: str) -> str:
    """The line that keeps a fault in a recording or a measurement.

    Raises:
        KeyError: no such code is declared.
    """
    return f"{FAULTS[code].code}: {detail}"


def unrecoverable(faults: Iterable[str]) -> bool:
    """Whether any of these lines is a fault that more cycles do not mend."""
    return any(not (known and known.more_cycles_help) for known in map(_declared, faults))


def without_figures(faults: Iterable[str]) -> bool:
    """Whether any of these lines is a fault that leaves no cycles to compute."""
    return any(known is not None and known.no_figures for known in map(_declared, faults))


def by_chance(faults: Iterable[str]) -> bool:
    """Whether all of these lines are faults that another launch mends."""
    return all(known is not None and known.by_chance for known in map(_declared, faults))


def _declared(line: str) -> Fault | None:
    return FAULTS.get(line.partition(":")[0])
