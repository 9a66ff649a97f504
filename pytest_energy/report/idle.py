"""What an engine at idle costs, and why it costs more than before, in words."""

from pytest_energy.report.words import at_idle
from pytest_energy.verdict.judgement import Compared

_BUSY = 0.5  # of a core, more than before: engines that wait use 0.01 to 0.02 (recordings/)


def in_words(found: Compared) -> list[str]:
    """Power of the engine, that of the GPU without it, and CPU use; empty if not compared."""
    candidate, reference = found.candidate, found.reference
    if found.ratio is None or candidate is None or reference is None:
        return []
    before_w = reference.summary.power_w
    said = at_idle(candidate.power_w, candidate.without_engine_w, candidate.cpu_cores)
    return [f"at idle {said}; {candidate.power_w - before_w:+.1f} W against {before_w:.1f} W"]


def why(found: Compared) -> list[str]:
    """What made it regress, as far as the host's CPUs tell."""
    candidate, reference = found.candidate, found.reference
    cores = candidate.cpu_cores if candidate else None
    before = reference.cpu_cores if reference else None
    if cores is None or before is None:
        return []
    change = f"{before:.2f} → {cores:.2f} CPU cores"
    if cores - before >= _BUSY:
        return [f"the engine keeps a CPU core busy while it waits: a busy loop ({change})"]
    return [f"its host does not wait busily ({change}): look for work, or clocks, on the GPU"]
