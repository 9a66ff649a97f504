"""facts → findings. Pure. docs/doctor.md lists every check with its codes."""

import enum
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pytest_energy.health.facts import (
    ClockFacts,
    CounterWatch,
    DriverFacts,
    EngineFacts,
    GpuFacts,
    HostFacts,
    Lock,
)
from pytest_energy.recording.recording import THERMAL_OR_HARDWARE

_POWER_LIMIT_W = 1.0  # limits that differ by less are one
_SLOW_UPDATES_S = 0.3  # the meter expects one every 0.1 s
_MIN_UPDATES = 3
_COUNTER_AGREES = (
    0.2  # roughly: at rest power is small and jumps; the gate's own limit is 3 %, under load
)
_COUNTER_AGREES_W = 20.0
_HOT_C = 65  # for a GPU at rest
_BUSY_PERCENT = 5
_MEMORY_HELD_MIB = 1024
_CORES = 4  # for the engine's processes, its load and the meter
_LOAD_SHARE = 0.5
_MEMORY_MIB = 16 * 1024
_DISK_MIB, _DISK_NEEDED_MIB = 2048, 64
_CLOCKS_APART_S = 0.02
_COARSE_NS = 1_000
_YEARS = range(2025, 2100)
_SLOW_SOURCES = ("acpi_pm", "hpet", "jiffies", "refined-jiffies", "pit")
_OLDEST_VLLM = (0, 20)

# nvmlClocksEventReason* bits that a person set and that hold clocks below what the board would do by itself.
_CLOCKS_SET = {
    0x2: "application clocks are set",
    0x10: "sync boost is on",
    0x100: "display clocks are set",
}
_PROHIBITED, _EXCLUSIVE = 2, 3  # NVML_COMPUTEMODE_*
_STUCK_REMEDY = "no energy can be measured on this GPU; reset it (nvidia-smi --gpu-reset) or reboot"


class Level(enum.StrEnum):
    """How bad it is. Only a fault ends with exit status 1, or makes a measurement invalid."""

    OK = "ok"
    WARNING = "warning"
    FAULT = "fault"


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        subject: "driver", a GPU's UUID, "host" or "engine".
        check: which check it was.
        level: how bad it is.
        what: what was found, and what it means where it is not ok.
        code: stable name of what is not ok; empty where it is.
        remedy: what to do or type; empty where nothing is to be done.
    """

    subject: str
    check: str
    level: Level
    what: str
    code: str = ""
    remedy: str = ""


def faults(findings: Sequence[Finding]) -> list[str]:
    """The faults among findings as a recording keeps them: "code: detail"."""
    return [f"{f.code}: {f.subject}: {f.what}" for f in findings if f.level is Level.FAULT]


def _ok(subject: str, check: str, what: str) -> Finding:
    return Finding(subject, check, Level.OK, what)


def _warning(subject: str, check: str, code: str, what: str, remedy: str) -> Finding:
    return Finding(subject, check, Level.WARNING, what, code, remedy)


def _fault(subject: str, check: str, code: str, what: str, remedy: str) -> Finding:
    return Finding(subject, check, Level.FAULT, what, code, remedy)


def driver(facts: DriverFacts) -> Finding:
    """Whether the driver answers."""
    if facts.error:
        remedy = "install NVIDIA's driver, or give the container the GPU (--gpus all); nvidia-smi must work here"
        return _fault(
            "driver",
            "driver",
            "no_driver",
            f"the NVIDIA driver does not answer: {facts.error}",
            remedy,
        )
    cuda = f", CUDA {facts.cuda}" if facts.cuda else ""
    return _ok("driver", "driver", f"{facts.version or 'of unknown version'}{cuda}")


def selection(listed: int, chosen: int, unknown: Sequence[str]) -> Finding:
    """Which GPUs are looked at.

    Args:
        listed: GPUs that the driver lists.
        chosen: of them.
        unknown: words in CUDA_VISIBLE_DEVICES that name none of them.
    """
    if not listed:
        remedy = "nvidia-smi -L must list one; a container needs --gpus all"
        return _fault("driver", "GPUs", "no_gpu", "the driver lists no GPU", remedy)
    if not chosen:
        remedy = "unset CUDA_VISIBLE_DEVICES, or name GPUs in it as nvidia-smi -L lists them"
        return _fault(
            "driver",
            "GPUs",
            "no_gpu",
            f"CUDA_VISIBLE_DEVICES hides all {listed} GPUs from programs",
            remedy,
        )
    if unknown:
        remedy = "name GPUs in it as nvidia-smi -L lists them"
        what = f"CUDA_VISIBLE_DEVICES names what is no GPU ({', '.join(unknown)}): CUDA hides it and all that follow"
        return _warning("driver", "GPUs", "gpu_unknown", what, remedy)
    return _ok("driver", "GPUs", f"{chosen} of {listed} looked at")


def gpu(facts: GpuFacts, watch: CounterWatch, lock: Lock) -> list[Finding]:
    """All checks of one GPU; one finding alone where it is lost."""
    if facts.lost:
        return [lost(facts)]
    checks: list[Callable[[GpuFacts], Finding]] = [
        persistence, power_limit, clocks, temperature, mig, ecc, memory_rows, compute_mode,
    ]  # fmt: skip
    return [
        energy_counter(facts, watch),
        *(check(facts) for check in checks),
        processes(facts, lock),
        gpu_lock(facts, lock),
    ]


def lost(facts: GpuFacts) -> Finding:
    """A GPU that does not answer any more."""
    remedy = "look for Xid in dmesg; reboot, or reset the GPU with nothing running on it: nvidia-smi --gpu-reset"
    return _fault(
        facts.uuid,
        "answers",
        "gpu_lost",
        f"the GPU does not answer any more ({facts.lost})",
        remedy,
    )


def _fine(facts: GpuFacts, check: str, what: str, *names: str) -> Finding:
    """Nothing was found; but one of the facts, by their names, that exists and could not be read is worth a warning."""
    for name in names:
        if name in facts.unreadable:
            remedy = "does nvidia-smi -q show it? If not, reset the GPU or reboot"
            return _warning(
                facts.uuid, check, "unreadable", f"cannot be read: {facts.unreadable[name]}", remedy
            )
    return _ok(facts.uuid, check, what)


def _untold(facts: GpuFacts, check: str, *names: str) -> Finding:
    return _fine(facts, check, "not told by this driver", *names)


def energy_counter(facts: GpuFacts, watch: CounterWatch) -> Finding:
    """Whether the counter lives and agrees roughly with the power readings."""
    subject, check = facts.uuid, "energy counter"
    if not watch.supported:
        return _fault(
            subject,
            check,
            "no_counter",
            "this GPU has none",
            "Volta and later have one: measure on such a GPU",
        )
    if watch.error:
        return _fault(
            subject, check, "counter_unreadable", f"cannot be read: {watch.error}", _STUCK_REMEDY
        )
    if watch.backwards:
        return _fault(subject, check, "counter_backwards", "runs backwards", _STUCK_REMEDY)
    if watch.updates < _MIN_UPDATES or watch.period_s is None or watch.seconds <= 0:
        return _fault(
            subject,
            check,
            "counter_stuck",
            f"moved {watch.updates} times in two seconds",
            _STUCK_REMEDY,
        )
    counted_w = watch.energy_j / watch.seconds
    every = f"moves every {watch.period_s * 1000:.0f} ms"
    if watch.power_w is None:
        remedy = "measurements will be invalid: does nvidia-smi show the power draw?"
        return _fault(
            subject, check, "power_unreadable", f"{every}, but the power cannot be read", remedy
        )
    told = f"{every}: {counted_w:.0f} W counted, {watch.power_w:.0f} W read"
    if abs(counted_w - watch.power_w) > max(_COUNTER_AGREES * watch.power_w, _COUNTER_AGREES_W):
        remedy = "run it again with nothing on the GPU; if it stays so, the driver misreports one of them: update it"
        return _fault(subject, check, "counter_disagrees", told, remedy)
    if watch.period_s > _SLOW_UPDATES_S:
        return _warning(
            subject,
            check,
            "counter_slow",
            told,
            "measured energy is blurred by half an update: measure for longer",
        )
    return _ok(subject, check, told)


def persistence(facts: GpuFacts) -> Finding:
    """Persistence mode."""
    if facts.persistence is None:
        return _untold(facts, "persistence", "persistence")
    if facts.persistence:
        return _ok(facts.uuid, "persistence", "on")
    what = "off: the driver unloads when nothing runs, and each engine starts on a cold GPU"
    return _warning(
        facts.uuid,
        "persistence",
        "persistence_off",
        what,
        f"sudo nvidia-smi -i {facts.index} -pm 1",
    )


def power_limit(facts: GpuFacts) -> Finding:
    """The power limit against the board's default, and what is enforced."""
    limit, default, enforced = (
        facts.power_limit_w,
        facts.default_power_limit_w,
        facts.enforced_power_limit_w,
    )
    if limit is None:
        return _untold(facts, "power limit", "power_limit_w")
    if enforced is not None and enforced < limit - _POWER_LIMIT_W:
        what = f"{limit:.0f} W, but {enforced:.0f} W are enforced: something outside of the driver caps the board"
        return _warning(
            facts.uuid,
            "power limit",
            "power_capped",
            what,
            "ask who manages this machine's power (BMC, rack limits)",
        )
    if default is not None and abs(limit - default) > _POWER_LIMIT_W:
        what = f"{limit:.0f} W, the board's default is {default:.0f} W: results compare only with those under this limit"
        remedy = f"if that is not meant: sudo nvidia-smi -i {facts.index} -pl {default:.0f}"
        return _warning(facts.uuid, "power limit", "power_limit_not_default", what, remedy)
    what = f"{limit:.0f} W" + (", the board's default" if default is not None else "")
    return _fine(facts, "power limit", what, "default_power_limit_w", "enforced_power_limit_w")


def clocks(facts: GpuFacts) -> Finding:
    """SM clock and what holds it down. The software power cap is normal and no fault."""
    reasons = facts.clock_reasons
    if reasons is None:
        return _untold(facts, "clocks", "clock_reasons")
    now = (
        f"SM at {facts.sm_clock_mhz} MHz" if facts.sm_clock_mhz is not None else "SM clock not told"
    )
    now += f" of {facts.max_sm_clock_mhz}" if facts.max_sm_clock_mhz is not None else ""
    held = [name for bit, name in THERMAL_OR_HARDWARE.items() if reasons & bit]
    if held:
        remedy = "look at cooling and power supply: nvidia-smi -q -d PERFORMANCE,TEMPERATURE,POWER"
        return _fault(facts.uuid, "clocks", "throttled", f"{now}: {', '.join(held)}", remedy)
    set_by = [name for bit, name in _CLOCKS_SET.items() if reasons & bit]
    if set_by:
        what = f"{now}: {', '.join(set_by)}; results compare only with those under these clocks"
        return _warning(
            facts.uuid,
            "clocks",
            "clocks_set",
            what,
            f"if that is not meant: sudo nvidia-smi -i {facts.index} -rac",
        )
    return _fine(facts, "clocks", now, "sm_clock_mhz", "max_sm_clock_mhz")


def temperature(facts: GpuFacts) -> Finding:
    """The temperature, taken for that of a GPU at rest."""
    if facts.temperature_c is None:
        return _untold(facts, "temperature", "temperature_c")
    if facts.temperature_c > _HOT_C:
        what = f"{facts.temperature_c} °C: hot for a GPU at rest; it may slow down under load"
        return _warning(
            facts.uuid,
            "temperature",
            "hot",
            what,
            "wait a minute if it has just worked; else look at the cooling",
        )
    return _ok(facts.uuid, "temperature", f"{facts.temperature_c} °C")


def mig(facts: GpuFacts) -> Finding:
    """Whether the GPU is cut into slices, whose energy cannot be told apart."""
    remedy = f"sudo nvidia-smi -i {facts.index} -mig 0"
    if facts.mig is None:
        return _untold(facts, "MIG", "mig")
    if facts.mig:
        what = "on: the energy of a slice cannot be told from its neighbours'"
        return _fault(facts.uuid, "MIG", "mig_enabled", what, remedy)
    if facts.mig_pending:
        return _warning(
            facts.uuid,
            "MIG",
            "mig_pending",
            "off, and on after the next reset",
            f"if that is not meant: {remedy}",
        )
    return _fine(facts, "MIG", "off", "mig_pending")


def ecc(facts: GpuFacts) -> Finding:
    """ECC and uncorrected errors."""
    if facts.ecc is None:
        return _untold(facts, "ECC", "ecc")
    if facts.ecc_uncorrected:
        what = f"{facts.ecc_uncorrected} memory errors could not be corrected since the driver was loaded"
        return _warning(
            facts.uuid,
            "ECC",
            "ecc_errors",
            what,
            "reset the GPU or reboot; if it comes back, have the board replaced",
        )
    if facts.ecc_pending is not None and facts.ecc != facts.ecc_pending:
        what = f"{'on' if facts.ecc else 'off'}, and {'on' if facts.ecc_pending else 'off'} after the next reboot"
        remedy = "reboot before baselines are made: results compare only under the same mode"
        return _warning(facts.uuid, "ECC", "ecc_pending", what, remedy)
    if not facts.ecc:
        remedy = f"if that is not meant: sudo nvidia-smi -i {facts.index} -e 1, and reboot"
        return _warning(
            facts.uuid, "ECC", "ecc_off", "off: results compare only with those without ECC", remedy
        )
    return _fine(
        facts,
        "ECC",
        "on, no uncorrected errors" if facts.ecc_uncorrected == 0 else "on",
        "ecc_uncorrected",
    )


def memory_rows(facts: GpuFacts) -> Finding:
    """Memory rows that were or should be replaced."""
    if facts.rows_failed is None and facts.rows_pending is None:
        return _untold(facts, "memory rows", "rows_failed", "rows_pending")
    if facts.rows_failed:
        what = "a bad row could not be replaced: the memory wears out"
        return _warning(facts.uuid, "memory rows", "rows_failed", what, "have the board replaced")
    if facts.rows_pending:
        what = "a bad row waits for a reset to be replaced"
        return _warning(
            facts.uuid,
            "memory rows",
            "rows_pending",
            what,
            "reset the GPU with nothing running on it, or reboot",
        )
    return _fine(facts, "memory rows", "sound", "rows_failed", "rows_pending")


def compute_mode(facts: GpuFacts) -> Finding:
    """Whether programs may use the GPU."""
    remedy = f"sudo nvidia-smi -i {facts.index} -c 0"
    if facts.compute_mode is None:
        return _untold(facts, "compute mode", "compute_mode")
    if facts.compute_mode == _PROHIBITED:
        return _fault(
            facts.uuid, "compute mode", "compute_prohibited", "no program may use the GPU", remedy
        )
    if facts.compute_mode == _EXCLUSIVE:
        what = "one process at a time: two engines in turns cannot be measured cycle by cycle"
        return _warning(facts.uuid, "compute mode", "compute_exclusive", what, remedy)
    return _ok(facts.uuid, "compute mode", "shared")


def processes(facts: GpuFacts, lock: Lock) -> Finding:
    """Others on the GPU. Where another run holds its lock they are taken for that run's: a run would wait for it."""
    subject, check = facts.uuid, "processes"
    found = facts.processes
    if found is None:
        if "processes" not in facts.unreadable:
            return _untold(facts, check)
        remedy = (
            "measurements will be invalid: does nvidia-smi list them? Run it with the same rights"
        )
        return _fault(
            subject,
            check,
            "processes_unreadable",
            f"cannot be listed: {facts.unreadable['processes']}",
            remedy,
        )
    if found:
        names = ", ".join(f"pid {p.pid}" + (f" ({p.name})" if p.name else "") for p in found[:5])
        names += f" and {len(found) - 5} more" if len(found) > 5 else ""
        if lock.held:
            return _warning(
                subject,
                check,
                "gpu_in_use",
                f"{names}, while another run measures",
                "wait for that run to end",
            )
        remedy = "end what it belongs to, or choose another GPU with CUDA_VISIBLE_DEVICES"
        return _fault(
            subject, check, "foreign_process", f"{names}: what it draws would be counted", remedy
        )
    used, busy = facts.memory_used_mib, facts.utilization_percent
    hidden = (
        [f"{used:,} MiB of memory are used"] if used is not None and used > _MEMORY_HELD_MIB else []
    )
    hidden += (
        [f"it is busy {busy} % of the time"] if busy is not None and busy > _BUSY_PERCENT else []
    )
    if hidden:
        what = (
            f"none is listed, yet {' and '.join(hidden)}: by another container or virtual machine?"
        )
        remedy = "run nvidia-smi on the host, and end what uses the GPU"
        return _warning(subject, check, "hidden_process", what, remedy)
    return _fine(facts, check, "none", "memory_used_mib", "utilization_percent")


def gpu_lock(facts: GpuFacts, lock: Lock) -> Finding:
    """Whether another run has the GPU."""
    if lock.held:
        what = f"held by {lock.holder or 'a process that has not said who it is'}: a run would wait"
        return _warning(facts.uuid, "lock", "gpu_locked", what, "wait for it to end")
    return _ok(facts.uuid, "lock", "free")


def host(facts: HostFacts) -> list[Finding]:
    """All checks of the host but its clocks."""
    checks = (cpu, governor, load, memory, cpu_energy, disk)
    return [check(facts) for check in checks]


def cpu(facts: HostFacts) -> Finding:
    """Model and cores."""
    usable = facts.usable_cores
    what = f"{facts.cpu_model or 'of unknown model'}, {facts.cores or 'unknown'} cores"
    if usable is not None and facts.cores and usable < facts.cores:
        what += f", {usable:g} of them for this process"
    if usable is not None and usable < _CORES:
        remedy = f"give the runner {_CORES} cores or more (cpus of the container, taskset)"
        return _warning(
            "host", "CPU", "few_cores", f"{what}: the engine may have to wait for them", remedy
        )
    return _ok("host", "CPU", what)


def governor(facts: HostFacts) -> Finding:
    """The CPU's frequency governor, where there is one."""
    if not facts.governors:
        return _ok("host", "governor", "not told, as in most virtual machines")
    if set(facts.governors) == {"performance"}:
        return _ok("host", "governor", "performance")
    what = f"{', '.join(facts.governors)}: CPU clocks wander, and with them the pace of the engine"
    return _warning(
        "host", "governor", "cpu_governor", what, "sudo cpupower frequency-set -g performance"
    )


def load(facts: HostFacts) -> Finding:
    """The load against the cores that may be used."""
    cores = facts.usable_cores or facts.cores
    if facts.load_1min is None or not cores:
        return _ok("host", "load", "not told")
    what = f"{facts.load_1min:.1f} on {cores:g} cores"
    if facts.load_1min > _LOAD_SHARE * cores:
        return _warning(
            "host",
            "load",
            "cpu_busy",
            f"{what}: what else runs slows the engine down",
            "end it, or wait: top",
        )
    return _ok("host", "load", what)


def memory(facts: HostFacts) -> Finding:
    """Free memory."""
    free = facts.memory_available_mib
    if free is None:
        return _ok("host", "memory", "not told")
    what = f"{free / 1024:.1f} GiB available"
    if free < _MEMORY_MIB:
        return _warning(
            "host",
            "memory",
            "low_memory",
            f"{what}: loading a model may fail",
            "end what uses it, or give the container more",
        )
    return _ok("host", "memory", what)


def cpu_energy(facts: HostFacts) -> Finding:
    """RAPL."""
    if facts.rapl_unavailable:
        forbidden = "ermission" in facts.rapl_unavailable
        remedy = (
            "sudo chmod o+r /sys/class/powercap/intel-rapl:*/energy_uj (until reboot)"
            if forbidden
            else "most virtual machines have none"
        )
        what = f"not recorded ({facts.rapl_unavailable}); no verdict needs it"
        return _warning("host", "CPU energy", "rapl_unavailable", what, remedy)
    return _ok("host", "CPU energy", "readable (RAPL)")


def disk(facts: HostFacts) -> Finding:
    """Free disk for temporary files."""
    free = facts.disk_free_mib
    if free is None:
        return _ok("host", "disk", "not told")
    what = f"{free / 1024:.1f} GiB free in {facts.temporary_folder}"
    remedy = f"free some in {facts.temporary_folder}, or name another folder with TMPDIR"
    if free < _DISK_NEEDED_MIB:
        return _fault("host", "disk", "disk_full", f"{what}: an engine's log does not fit", remedy)
    if free < _DISK_MIB:
        return _warning("host", "disk", "disk_low", what, remedy)
    return _ok("host", "disk", what)


def clock(facts: ClockFacts) -> Finding:
    """Whether time can be measured, and whether dates will be right."""
    source = f" ({facts.source})" if facts.source else ""
    if facts.monotonic_s <= 0:
        return _fault(
            "host",
            "clocks",
            "clock_stands",
            f"CLOCK_MONOTONIC does not advance{source}",
            "reboot; no time can be measured",
        )
    if facts.step_ns > _COARSE_NS:
        what = f"CLOCK_MONOTONIC goes in steps of {facts.step_ns / 1000:,.0f} µs{source}"
        return _fault(
            "host",
            "clocks",
            "clock_coarse",
            what,
            "choose another clock source (kernel option clocksource=tsc)",
        )
    if facts.source in _SLOW_SOURCES:
        what = f"reading the time is slow{source}"
        return _warning(
            "host",
            "clocks",
            "clock_slow",
            what,
            "choose another clock source (kernel option clocksource=tsc)",
        )
    if facts.year not in _YEARS:
        what = f"the date is wrong (year {facts.year}): baselines and recordings would be dated so"
        return _warning("host", "clocks", "clock_wrong", what, "sudo timedatectl set-ntp true")
    if abs(facts.wall_s - facts.monotonic_s) > _CLOCKS_APART_S:
        what = f"the wall clock went {facts.wall_s:.3f} s in {facts.monotonic_s:.3f} s: it is being set; dates may be wrong, energy is not"
        return _warning(
            "host",
            "clocks",
            "clock_stepped",
            what,
            "wait until the time service has settled: timedatectl",
        )
    return _ok("host", "clocks", f"monotonic{source} and wall clock agree")


def engine(facts: EngineFacts) -> Finding:
    """Whether vLLM can be imported."""
    here = facts.interpreter
    if facts.stage == "start":
        remedy = "give the path of a Python interpreter: --python PATH"
        return _fault(
            "engine", "vLLM", "python_unusable", f"{here} cannot be run: {facts.error}", remedy
        )
    if facts.stage == "timeout":
        remedy = f"see where it hangs: {here} -X importtime -c 'import vllm'"
        return _fault("engine", "vLLM", "vllm_timeout", facts.error, remedy)
    if facts.error:
        missing = "No module named 'vllm'" in facts.error
        install = f"{here} -m pip install vllm, or name the interpreter of the environment that has it: --python PATH"
        remedy = install if missing else f"see it whole: {here} -c 'import vllm'"
        return _fault(
            "engine",
            "vLLM",
            "no_vllm" if missing else "vllm_broken",
            f"cannot be imported: {facts.error}",
            remedy,
        )
    took = f", imported in {facts.import_s:.0f} s" if facts.import_s is not None else ""
    what = f"{facts.vllm}, torch {facts.torch}, Python {facts.python}{took}"
    version = re.match(r"(\d{1,6})\.(\d{1,6})", facts.vllm or "")
    if version and (int(version[1]), int(version[2])) < _OLDEST_VLLM:
        return _warning(
            "engine",
            "vLLM",
            "vllm_old",
            f"{what}: older than what was tried",
            "vLLM 0.20 and later are known to work",
        )
    return _ok("engine", "vLLM", what)


def changes(before: GpuFacts, after: GpuFacts) -> list[Finding]:
    """What a cell's two looks at one GPU say together; faults alone."""
    found = [lost(facts) for facts in (before, after) if facts.lost][:1]
    found += [f for f in (mig(before), mig(after)) if f.level is Level.FAULT][:1]
    if after.lost:
        return found
    for name, what in (
        ("power_limit_w", "power limit"),
        ("enforced_power_limit_w", "enforced power limit"),
    ):
        old, new = getattr(before, name), getattr(after, name)
        if old is not None and new is not None and abs(new - old) > _POWER_LIMIT_W:
            text = f"the {what} was {old:.0f} W before the load and {new:.0f} W after it"
            found.append(
                _fault(
                    after.uuid,
                    "power limit",
                    "power_limit_changed",
                    text,
                    "leave it alone while a run measures",
                )
            )
    errors = (after.ecc_uncorrected or 0) - (before.ecc_uncorrected or 0)
    if before.ecc_uncorrected is not None and after.ecc_uncorrected is not None and errors > 0:
        text = f"{errors} memory errors that could not be corrected came up under load"
        found.append(_fault(after.uuid, "ECC", "ecc_errors", text, "reset the GPU or reboot"))
    found += [
        _fault(
            after.uuid,
            "answers",
            "gpu_unreadable",
            f"{name} could be read before the load and not after it ({why})",
            "nvidia-smi -q",
        )
        for name, why in sorted(after.unreadable.items())
        if getattr(before, name) is not None
    ]
    return found


SUSPENDED_S = 0.1


def suspension(before_s: float, after_s: float) -> list[Finding]:
    """Whether the machine slept between two looks; each the time that CLOCK_BOOTTIME is ahead of CLOCK_MONOTONIC, which stands meanwhile.

    A wall clock that is set is no fault: nothing is measured with it.
    """
    slept = after_s - before_s
    if slept <= SUSPENDED_S:
        return []
    what = f"the machine was suspended for {slept:.1f} s: energy was counted in time that was not"
    return [_fault("host", "clocks", "suspended", what, "keep the runner awake")]
