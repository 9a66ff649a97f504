"""Facts of a GPU → findings. Pure."""

from collections.abc import Callable

from pytest_energy.health import findings as kinds
from pytest_energy.health.facts import CounterWatch, GpuFacts, Lock
from pytest_energy.health.findings import Finding, found, ok
from pytest_energy.recording.recording import THERMAL_OR_HARDWARE

POWER_LIMIT_W = 1.0  # limits that differ by less are the same
_SLOW_UPDATES_S = 0.3  # the meter expects one every 0.1 s
_MIN_UPDATES = 3
# Rough: idle power is small and jumps. The gate's own limit is 3 %, under load.
_COUNTER_AGREES, _COUNTER_AGREES_W = 0.2, 20.0
_HOT_C = 65  # for an idle GPU
BUSY_PERCENT = 5
# A desktop that a container hides or an idle CUDA context stays below; an engine does not.
HELD_MIB = 2048

# nvmlClocksEventReason* bits that somebody set and that hold clocks below the GPU's own choice.
_CLOCKS_SET = {
    0x2: "application clocks are set",
    0x10: "sync boost is on",
    0x100: "display clocks are set",
}
_PROHIBITED, _EXCLUSIVE = 2, 3  # NVML_COMPUTEMODE_*
_STUCK_REMEDY = "energy cannot be measured on this GPU: reset it (nvidia-smi --gpu-reset) or reboot"


def gpu(facts: GpuFacts, watch: CounterWatch, lock: Lock) -> list[Finding]:
    """All checks of one GPU; only `lost` if it is lost."""
    if facts.lost:
        return [lost(facts)]
    checks: list[Callable[[GpuFacts], Finding]] = [
        persistence, power_limit, clocks, temperature, mig, ecc, memory_rows, compute_mode,
    ]  # fmt: skip
    return [
        energy_counter(facts, watch),
        *(check(facts) for check in checks),
        samples(facts),
        processes(facts, lock),
        gpu_lock(facts, lock),
    ]


def lost(facts: GpuFacts) -> Finding:
    """A GPU that no longer responds."""
    what = f"the GPU no longer responds ({facts.lost})"
    remedy = (
        "check dmesg for Xid errors; reboot, or reset the GPU while nothing runs on it: "
        "nvidia-smi --gpu-reset; to measure on others: CUDA_VISIBLE_DEVICES, doctor --gpu"
    )
    return found(facts.uuid, "gpu_lost", what, remedy)


def unreachable(subject: str, error: str, not_ours: bool) -> Finding:
    """A GPU that the driver counts and cannot reach, or that it may not show.

    Args:
        not_ours: whether access is forbidden while other GPUs can be measured.
    """
    if not not_ours:
        return lost(GpuFacts(uuid=subject, lost=error))
    what = f"the driver may not show this GPU ({error}); the others can be measured"
    remedy = "if it should be measured: give this user or container access to /dev/nvidia*"
    return found(subject, "gpu_forbidden", what, remedy)


def _fine(facts: GpuFacts, check: str, what: str, *names: str) -> Finding:
    """Ok, or a warning if one of the named facts exists but could not be read."""
    for name in names:
        if name in facts.unreadable:
            what = f"cannot be read: {facts.unreadable[name]}"
            remedy = "check whether nvidia-smi -q shows it; if not, reset the GPU or reboot"
            return found(facts.uuid, "unreadable", what, remedy, check)
    return ok(facts.uuid, check, what)


def _unreported(facts: GpuFacts, check: str, *names: str) -> Finding:
    return _fine(facts, check, "not reported by this driver", *names)


def energy_counter(facts: GpuFacts, watch: CounterWatch) -> Finding:
    """Whether the counter works and roughly agrees with the power readings."""
    subject = facts.uuid
    if not watch.supported:
        return found(
            subject,
            "no_counter",
            "this GPU does not have one",
            "measure on a GPU that does: Volta or later",
        )
    if watch.error:
        return found(subject, "counter_unreadable", f"cannot be read: {watch.error}", _STUCK_REMEDY)
    if watch.backwards:
        return found(subject, "counter_backwards", "ran backwards", _STUCK_REMEDY)
    if watch.updates < _MIN_UPDATES or watch.period_s is None or watch.seconds <= 0:
        what = f"number of updates in two seconds: {watch.updates}"
        return found(subject, "counter_stuck", what, _STUCK_REMEDY)
    counted_w = watch.energy_j / watch.seconds
    every = f"updated every {watch.period_s * 1000:.0f} ms"
    if watch.power_w is None:
        why = f" ({watch.power_error})" if watch.power_error else ""
        what = f"{every}, but the power draw cannot be read{why}"
        remedy = "every measurement would be invalid: check whether nvidia-smi shows the power draw"
        return found(subject, "power_unreadable", what, remedy)
    what = f"{every}: {counted_w:.0f} W counted, {watch.power_w:.0f} W read"
    what += " of the whole module: GPU, CPU and memory" * watch.of_module
    if abs(counted_w - watch.power_w) > max(_COUNTER_AGREES * watch.power_w, _COUNTER_AGREES_W):
        remedy = (
            "repeat with nothing running on the GPU; if they still differ, the driver misreports "
            "one of them: update it"
        )
        return found(subject, "counter_disagrees", what, remedy)
    if watch.period_s > _SLOW_UPDATES_S:
        remedy = "measure for longer: energy is uncertain by half an update"
        return found(subject, "counter_slow", what, remedy)
    return ok(subject, kinds.COUNTER, what)


def samples(facts: GpuFacts) -> Finding:
    """What accompanies the counter, and is needed to judge a measurement."""
    for name in ("clock_reasons", "utilization_percent"):
        if name in facts.unreadable:
            what = f"{name} cannot be read: {facts.unreadable[name]}"
            remedy = "every measurement would be invalid: check nvidia-smi -q, reset the GPU"
            return found(facts.uuid, "sample_unreadable", what, remedy)
    return ok(facts.uuid, kinds.SAMPLES, "throttle reasons and utilization can be read")


def persistence(facts: GpuFacts) -> Finding:
    """Persistence mode."""
    if facts.persistence is None:
        return _unreported(facts, kinds.PERSISTENCE, "persistence")
    if facts.persistence:
        return ok(facts.uuid, kinds.PERSISTENCE, "on")
    what = "off: the driver unloads when the GPU is unused, so every engine starts on a cold GPU"
    return found(facts.uuid, "persistence_off", what, f"sudo nvidia-smi -i {facts.index} -pm 1")


def power_limit(facts: GpuFacts) -> Finding:
    """The power limit against the GPU's default and the enforced limit."""
    limit, default = facts.power_limit_w, facts.default_power_limit_w
    enforced = facts.enforced_power_limit_w
    if limit is None:
        return _unreported(facts, kinds.POWER_LIMIT, "power_limit_w")
    if enforced is not None and enforced < limit - POWER_LIMIT_W:
        what = (
            f"{limit:.0f} W, but something other than the driver caps this GPU at {enforced:.0f} W"
        )
        remedy = "ask whoever manages this machine's power (BMC, rack limits)"
        return found(facts.uuid, "power_capped", what, remedy)
    if default is not None and abs(limit - default) > POWER_LIMIT_W:
        what = (
            f"{limit:.0f} W, the default is {default:.0f} W: results are comparable only under "
            "the same limit"
        )
        remedy = f"if this is not intended: sudo nvidia-smi -i {facts.index} -pl {default:.0f}"
        return found(facts.uuid, "power_limit_not_default", what, remedy)
    what = f"{limit:.0f} W" + (", the default" if default is not None else "")
    return _fine(facts, kinds.POWER_LIMIT, what, "default_power_limit_w", "enforced_power_limit_w")


def clocks(facts: GpuFacts) -> Finding:
    """SM clock and what holds it down. The software power cap is normal and not a fault."""
    reasons, now_mhz, max_mhz = facts.clock_reasons, facts.sm_clock_mhz, facts.max_sm_clock_mhz
    if reasons is None:
        return _unreported(facts, kinds.CLOCKS, "clock_reasons")
    now = "SM clock not reported" if now_mhz is None else f"SM at {now_mhz} MHz"
    now += f" of {max_mhz}" if max_mhz is not None else ""
    held = [name for bit, name in THERMAL_OR_HARDWARE.items() if reasons & bit]
    if held:
        remedy = "check cooling and power: nvidia-smi -q -d PERFORMANCE,TEMPERATURE,POWER"
        return found(facts.uuid, "throttled", f"{now}: {', '.join(held)}", remedy)
    set_by = [name for bit, name in _CLOCKS_SET.items() if reasons & bit]
    if set_by:
        what = f"{now}: {', '.join(set_by)}; results are comparable only at the same clocks"
        remedy = f"if this is not intended: sudo nvidia-smi -i {facts.index} -rac"
        return found(facts.uuid, "clocks_set", what, remedy)
    return _fine(facts, kinds.CLOCKS, now, "sm_clock_mhz", "max_sm_clock_mhz")


def temperature(facts: GpuFacts) -> Finding:
    """The temperature, assuming that the GPU is idle."""
    if facts.temperature_c is None:
        return _unreported(facts, kinds.TEMPERATURE, "temperature_c")
    if facts.temperature_c > _HOT_C:
        what = f"{facts.temperature_c} °C: hot for an idle GPU; it may slow down under load"
        remedy = "wait a minute if it has just been busy; otherwise check the cooling"
        return found(facts.uuid, "hot", what, remedy)
    return ok(facts.uuid, kinds.TEMPERATURE, f"{facts.temperature_c} °C")


def mig(facts: GpuFacts) -> Finding:
    """Whether the GPU is split into slices, whose energy cannot be separated."""
    remedy = f"sudo nvidia-smi -i {facts.index} -mig 0"
    if facts.mig is None:
        return _unreported(facts, kinds.MIG, "mig")
    if facts.mig:
        what = "on: the energy of a slice cannot be separated from that of its neighbors"
        return found(facts.uuid, "mig_enabled", what, remedy)
    if facts.mig_pending:
        what = "off, but on after the next reset"
        return found(facts.uuid, "mig_pending", what, f"if this is not intended: {remedy}")
    return _fine(facts, kinds.MIG, "off", "mig_pending")


def ecc(facts: GpuFacts) -> Finding:
    """ECC and uncorrectable errors."""
    if facts.ecc is None:
        return _unreported(facts, kinds.ECC, "ecc")
    if facts.ecc_uncorrected:
        what = f"uncorrectable memory errors since the driver was loaded: {facts.ecc_uncorrected}"
        remedy = "reset the GPU or reboot; if they come back, have the GPU replaced"
        return found(facts.uuid, "ecc_errors", what, remedy)
    if facts.ecc_pending is not None and facts.ecc != facts.ecc_pending:
        now, then = ("on", "off") if facts.ecc else ("off", "on")
        remedy = "reboot before storing baselines: results are comparable only in the same mode"
        return found(facts.uuid, "ecc_pending", f"{now}, but {then} after the next reboot", remedy)
    if not facts.ecc:
        what = "off: results are comparable only with others without ECC"
        remedy = f"if this is not intended: sudo nvidia-smi -i {facts.index} -e 1, then reboot"
        return found(facts.uuid, "ecc_off", what, remedy)
    what = "on, no uncorrectable errors" if facts.ecc_uncorrected == 0 else "on"
    return _fine(facts, kinds.ECC, what, "ecc_uncorrected")


def memory_rows(facts: GpuFacts) -> Finding:
    """Memory rows that have been or should be remapped."""
    names = "rows_failed", "rows_pending"
    if facts.rows_failed is None and facts.rows_pending is None:
        return _unreported(facts, kinds.MEMORY_ROWS, *names)
    if facts.rows_failed:
        what = "a faulty row could not be remapped: the memory is wearing out"
        return found(facts.uuid, "rows_failed", what, "have the GPU replaced")
    if facts.rows_pending:
        what = "a faulty row will be remapped at the next reset"
        remedy = "reset the GPU while nothing runs on it, or reboot"
        return found(facts.uuid, "rows_pending", what, remedy)
    return _fine(facts, kinds.MEMORY_ROWS, "healthy", *names)


def compute_mode(facts: GpuFacts) -> Finding:
    """Whether programs may use the GPU."""
    remedy = f"sudo nvidia-smi -i {facts.index} -c 0"
    if facts.compute_mode is None:
        return _unreported(facts, kinds.COMPUTE_MODE, "compute_mode")
    if facts.compute_mode == _PROHIBITED:
        return found(facts.uuid, "compute_prohibited", "no program may use this GPU", remedy)
    if facts.compute_mode == _EXCLUSIVE:
        what = "one process at a time: two interleaved engines cannot share this GPU"
        return found(facts.uuid, "compute_exclusive", what, remedy)
    return ok(facts.uuid, kinds.COMPUTE_MODE, "shared")


def processes(facts: GpuFacts, lock: Lock) -> Finding:
    """Others on the GPU. If another run holds its lock, they are taken for that run's."""
    subject, listed = facts.uuid, facts.processes
    if listed is None:
        if "processes" not in facts.unreadable:
            return _unreported(facts, kinds.PROCESSES)
        what = f"cannot be listed: {facts.unreadable['processes']}"
        remedy = (
            "every measurement would be invalid: check whether nvidia-smi lists them with the same "
            "permissions"
        )
        return found(subject, "processes_unreadable", what, remedy)
    if listed:
        names = ", ".join(f"pid {p.pid}" + (f" ({p.name})" if p.name else "") for p in listed[:5])
        names += f" and {len(listed) - 5} more" if len(listed) > 5 else ""
        if lock.held:
            what = f"{names}, while another run is measuring"
            return found(subject, "gpu_in_use", what, "wait for that run to end")
        remedy = "end what runs there, or choose another GPU with CUDA_VISIBLE_DEVICES"
        what = f"{names}: the energy used there would be counted"
        return found(subject, "foreign_process", what, remedy)
    return _hidden(facts, lock)


def _hidden(facts: GpuFacts, lock: Lock) -> Finding:
    used, busy = facts.memory_used_mib, facts.utilization_percent
    signs = []
    if used is not None and used > HELD_MIB:
        signs.append(f"{used:,} MiB of memory is in use")
    if busy is not None and busy > BUSY_PERCENT:
        signs.append(f"the GPU is {busy} % in use")
    if not signs:
        return _fine(facts, kinds.PROCESSES, "none", "memory_used_mib", "utilization_percent")
    signs_of_use = " and ".join(signs)
    if lock.held:
        what = f"{signs_of_use}, while another run is measuring"
        return found(facts.uuid, "gpu_in_use", what, "wait for that run to end")
    what = f"no process is listed, but {signs_of_use}, perhaps by another container or VM"
    remedy = "run nvidia-smi on the host, and end what uses the GPU"
    return found(facts.uuid, "hidden_process", what, remedy)


def gpu_lock(facts: GpuFacts, lock: Lock) -> Finding:
    """Whether another run has the GPU."""
    if lock.held:
        what = f"held by {lock.holder or 'an unknown process'}: a run would wait"
        return found(facts.uuid, "gpu_locked", what, "wait for it to end")
    return ok(facts.uuid, kinds.LOCK, "free")
