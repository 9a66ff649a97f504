"""Facts of the host and its clocks → findings. Pure."""

from pytest_energy.health import findings as kinds
from pytest_energy.health.facts import ClockFacts, HostFacts
from pytest_energy.health.findings import Finding, found, ok

_CORES = 4  # for the engine's processes, its load and the meter
_LOAD_SHARE = 0.5
_MEMORY_MIB = 16 * 1024
_DISK_MIB, _DISK_NEEDED_MIB = 2048, 64
_CLOCKS_APART_S = 0.02
_COARSE_NS = 1_000
_YEARS = range(2025, 2100)
_SLOW_SOURCES = ("acpi_pm", "hpet", "jiffies", "refined-jiffies", "pit")
_HOST = "host"
_UNREPORTED = "not reported"


def host(facts: HostFacts) -> list[Finding]:
    """All checks of the host except its clocks."""
    return [check(facts) for check in (cpu, governor, load, memory, disk)]


def cpu(facts: HostFacts) -> Finding:
    """Model and cores."""
    usable = facts.usable_cores
    what = f"{facts.cpu_model or 'unknown model'}, {facts.cores or 'unknown number of'} cores"
    if usable is not None and facts.cores and usable < facts.cores:
        what += f", {usable:g} of them usable by this process"
    if usable is not None and usable < _CORES:
        remedy = f"give the runner at least {_CORES} cores (the container's CPUs, taskset)"
        return found(_HOST, "few_cores", f"{what}: the engine may have to wait for them", remedy)
    return ok(_HOST, kinds.CPU, what)


def governor(facts: HostFacts) -> Finding:
    """The CPU's frequency governor, if there is one."""
    if not facts.governors:
        return ok(_HOST, kinds.GOVERNOR, "not reported, as in most virtual machines")
    if set(facts.governors) == {"performance"}:
        return ok(_HOST, kinds.GOVERNOR, "performance")
    what = f"{', '.join(facts.governors)}: CPU clocks vary, and with them the engine's speed"
    return found(_HOST, "cpu_governor", what, "sudo cpupower frequency-set -g performance")


def load(facts: HostFacts) -> Finding:
    """The load against the usable cores."""
    cores = facts.usable_cores or facts.cores
    if facts.load_1min is None or not cores:
        return ok(_HOST, kinds.LOAD, _UNREPORTED)
    what = f"{facts.load_1min:.1f} on {cores:g} cores"
    if facts.load_1min > _LOAD_SHARE * cores:
        what += ": other processes slow the engine down"
        return found(_HOST, "cpu_busy", what, "end them or wait; top shows them")
    return ok(_HOST, kinds.LOAD, what)


def memory(facts: HostFacts) -> Finding:
    """Free memory."""
    if facts.memory_available_mib is None:
        return ok(_HOST, kinds.MEMORY, _UNREPORTED)
    what = f"{facts.memory_available_mib / 1024:.1f} GiB available"
    if facts.memory_available_mib < _MEMORY_MIB:
        remedy = "end what uses it, or give the container more"
        return found(_HOST, "low_memory", f"{what}: loading a model may fail", remedy)
    return ok(_HOST, kinds.MEMORY, what)


def disk(facts: HostFacts) -> Finding:
    """Free disk space for temporary files."""
    free = facts.disk_free_mib
    if free is None:
        return ok(_HOST, kinds.DISK, _UNREPORTED)
    what = f"{free / 1024:.1f} GiB free in {facts.temporary_folder}"
    remedy = f"free space in {facts.temporary_folder}, or choose another folder with TMPDIR"
    if free < _DISK_NEEDED_MIB:
        return found(_HOST, "disk_full", f"{what}: too little for an engine's log", remedy)
    if free < _DISK_MIB:
        return found(_HOST, "disk_low", what, remedy)
    return ok(_HOST, kinds.DISK, what)


def clock(facts: ClockFacts) -> Finding:
    """Whether time can be measured, and whether dates will be right."""
    source = f" ({facts.source})" if facts.source else ""
    other_source = "choose another clock source (kernel option clocksource=tsc)"
    if facts.monotonic_s <= 0:
        what = f"CLOCK_MONOTONIC does not advance{source}: time cannot be measured"
        return found(_HOST, "clock_stands", what, "reboot")
    if facts.step_ns > _COARSE_NS:
        what = f"CLOCK_MONOTONIC advances in steps of {facts.step_ns / 1000:,.0f} µs{source}"
        return found(_HOST, "clock_coarse", what, other_source)
    if facts.source in _SLOW_SOURCES:
        return found(_HOST, "clock_slow", f"reading the time is slow{source}", other_source)
    if facts.year not in _YEARS:
        what = f"the year is {facts.year}: baselines and recordings would bear a wrong date"
        return found(_HOST, "clock_wrong", what, "sudo timedatectl set-ntp true")
    if abs(facts.wall_s - facts.monotonic_s) > _CLOCKS_APART_S:
        what = (
            f"the wall clock advanced by {facts.wall_s:.3f} s in {facts.monotonic_s:.3f} s: "
            "it is being adjusted; dates may be wrong, energy is not"
        )
        remedy = "wait until the time service has settled: timedatectl"
        return found(_HOST, "clock_stepped", what, remedy)
    return ok(_HOST, kinds.CLOCKS, f"monotonic{source} and wall clock agree")
