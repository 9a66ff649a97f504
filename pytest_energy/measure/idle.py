"""An engine at idle: what makes its power doubtful. Pure."""

from pytest_energy.measure.cycles import FIGURES, IDLE_PARTS, Cycles
from pytest_energy.recording.faults import fault
from pytest_energy.recording.recording import Recording

# Parts of 3 s against their mean. The hot idle power of launches on one GPU varies by 1 to 2 %
# (recordings/); an engine that wakes up now and then does so several times in a part.
_UNSTEADY = 0.10


def faults_of(recording: Recording, parts: Cycles) -> list[str]:
    """What the parts of the time at idle show."""
    seconds, generated = sum(parts.time_s), sum(recording.tokens.tokens)
    lines = []
    if generated:
        what = f"the engine generated {generated} tokens in {seconds:.0f} s without a request of us"
        lines.append(fault("not_idle", what))
    low, high = min(parts.power_w), max(parts.power_w)
    if not FIGURES[0] <= low <= high <= FIGURES[1]:
        return [*lines, fault("implausible", f"{low:.3g} to {high:.3g} W at idle")]
    mean = sum(parts.energy_j) / seconds
    if max(high - mean, mean - low) > _UNSTEADY * mean:
        each = f"{seconds / IDLE_PARTS:.0f} s each"
        what = f"power at idle was {low:.0f} to {high:.0f} W in {IDLE_PARTS} parts of {each}"
        lines.append(fault("unsteady", what))
    return lines
