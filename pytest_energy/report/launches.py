"""The launches that results rest on: their table, and what is to be known of single ones."""

from collections.abc import Sequence
from dataclasses import dataclass

from pytest_energy.measure.measurement import Measurement
from pytest_energy.report.results import ReportedDrift, ReportedLaunch, ReportedSteps, Results
from pytest_energy.verdict.judgement import Compared

COLUMNS = (
    "cell",
    "engine",
    "launch",
    "J/token",
    "W",
    "tokens/s",
    "cycles",
    "drift of power",
    "drift of tokens/s",
    "outside graphs",
    "host-bound",
    "ms a step",
    "ms a prompt adds",
)

_UNSIZED_CACHE = (
    "the server does not report the size of its KV cache; that it held the batch is known from its "
    "count of preemptions and from how long requests waited"
)


_HARMLESS = "(harmless: nothing to do)"
_DOUBTFUL = "and its J/token with it: another launch tells whether it stays so (--energy-launches)"
_MOST_NAMED = 3
_OF_MODULE = "energy and power are of the whole module: GPU, CPU and memory"


def made_here(found: Compared) -> str:
    """When the launches that stand in for a baseline were made, if that was on this machine."""
    if found.reference_from == "run":
        return ", made in this run"
    if found.reference_from == "cache" and found.reference is not None:
        return f", made here by {str(found.reference.environment.date)[:10]}"
    return ""


def remarks(kept: Sequence[Measurement], left_out: Sequence[Measurement]) -> list[str]:
    """What is to be known of launches: why one was left out, dropped cycles, drifts, no sizes."""
    lines = left_out_lines(left_out)
    for m in kept:
        found = [f"its first cycle after the warm-up is left out {_HARMLESS}"] * m.dropped_cycles
        if m.steadiness:
            found += [f"{line} {_HARMLESS}" for line in m.steadiness.reported]
            found += [f"{line}, {_DOUBTFUL}" for line in m.steadiness.doubtful]
        found += [_OF_MODULE] * (m.environment.energy_scope == "module")
        found += [_UNSIZED_CACHE] * (m.environment.engine_settings.get("block_size") == "unknown")
        lines += [f"launch {m.launch_id}: {line}" for line in found]
    return lines


def left_out_lines(launches: Sequence[Measurement]) -> list[str]:
    """Why each launch was left out, one line a fault."""
    return [f"left out: launch {m.launch_id}: {fault}" for m in launches for fault in m.faults]


def itself_lines(launch_ids: Sequence[str]) -> list[str]:
    """What a comparison is worth if the baseline holds these launches of the candidate."""
    if not launch_ids:
        return []
    named = ", ".join(launch_ids[:_MOST_NAMED]) + (", ..." if launch_ids[_MOST_NAMED:] else "")
    return [
        f"compared with itself: the baseline holds {named}, so this says nothing about another "
        "engine. Replay launches that made no baseline."
    ]


@dataclass(frozen=True)
class Line:
    """One line of the table: its texts in the order of `COLUMNS`."""

    cell: str
    engine: str
    launch: str
    figures: tuple[str, ...]


def lines(results: Results) -> list[Line]:
    """Every launch of every cell once, in the order of the entries; the reference's first."""
    found: dict[Line, None] = {}
    for entry in results.entries:
        for side in filter(None, (entry.reference, entry.candidate)):
            for launch in side.launches:
                found[Line(entry.cell.name, side.engine, launch.launch_id, _figures(launch))] = None
    return list(found)


def _figures(launch: ReportedLaunch) -> tuple[str, ...]:
    cycles = "-" if launch.cycles is None else str(launch.cycles)
    if launch.dropped_cycles:
        cycles += f" ({launch.dropped_cycles} dropped)"
    return (
        f"{launch.joules_per_token:#.4g}",
        f"{launch.power_w:,.0f}",
        f"{launch.tokens_per_s:,.0f}",
        cycles,
        drift(launch.power_drift),
        drift(launch.tokens_per_s_drift),
        *_of_steps(launch.steps),
    )


def _of_steps(steps: ReportedSteps | None) -> tuple[str, ...]:
    """Shares of the time, and durations."""
    if steps is None:
        return ("-",) * 4
    durations = ("-" if ms is None else f"{ms:.3g}" for ms in (steps.step_ms, steps.prompt_ms))
    return (f"{100 * steps.time_outside:.0f} %", f"{100 * steps.host_bound:.0f} %", *durations)


def drift(found: ReportedDrift | None) -> str:
    """With two standard errors."""
    if found is None:
        return "-"
    rise = f"{100 * found.value:+.1f}".replace("-0.0", "+0.0")
    return f"{rise} ± {200 * found.standard_error:.1f} %"
