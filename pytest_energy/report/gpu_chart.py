"""The control chart of a GPU's reference launches, in words."""

import math
from collections.abc import Collection, Sequence

from pytest_energy.health.findings import REFERENCE, Finding, found, ok
from pytest_energy.measure.control_chart import MIN_POINTS, Alarm, Chart
from pytest_energy.report.words import count, percent
from pytest_energy.store.baseline import Baseline
from pytest_energy.store.gpu_launches import Change, GpuLaunches, Machine


def named(gpus: Sequence[str]) -> str:
    """GPUs in short: the beginning of the first one's UUID, and how many more there are."""
    if not gpus:
        return "GPU of unknown UUID"
    return gpus[0][:12] + (f"+{len(gpus) - 1}" if len(gpus) > 1 else "")


def state(launches: GpuLaunches, machine: Machine | None = None) -> str:
    """Where the chart of the engine that was launched last stands.

    Args:
        launches: at least one, or a damaged line.
        machine: as it was then; None for as it was last.
    """
    if launches.damaged:
        damaged = count(launches.damaged, "damaged line")
        return (
            f"not known to be in its band: {damaged} in launches.jsonl, "
            "which the next launch of the reference mends"
        )
    machine = machine or launches.lines[-1].machine
    return in_words(launches.chart(machine), str(launches.engine(machine)))


def with_change(launches: GpuLaunches) -> str:
    """Where the chart stands, and the last change of the machine; at least one line."""
    changed = launches.change()
    return state(launches) if changed is None else f"{state(launches)}; {change(changed)}"


def finding(gpu_uuid: str, launches: GpuLaunches) -> Finding:
    """The chart of a GPU as doctor shows it, in one line."""
    line = with_change(launches)
    if len(launches.gpus) > 1:
        line = f"with {count(len(launches.gpus) - 1, 'more GPU')}, {line}"
    if not launches.is_out(launches.lines[-1].machine):
        return ok(gpu_uuid, REFERENCE, line)
    remedy = (
        "until then runs launch the reference anew; look for what changed: cooling, power, host"
    )
    return found(gpu_uuid, "out_of_band", line, remedy)


def news(
    launches: GpuLaunches, launch_ids: Collection[str], outdated: Sequence[Baseline] = ()
) -> list[str]:
    """What some of the launches show of the machine: that it changed, or left its band.

    Args:
        launches: of the GPUs.
        launch_ids: those that were made now.
        outdated: baselines of these GPUs from before the machine changed.
    """
    if not launches.lines:
        return []
    texts = []
    changes = launches.change(), launches.change_since(outdated)
    changed = next((of for of in changes if of and of.launch_id in launch_ids), None)
    if changed is not None:
        texts.append(change(changed))
    left = launches.chart(launches.lines[-1].machine).alarm
    made = {line.date for line in launches.lines if line.launch_id in launch_ids}
    if left is not None and left.date in made:
        texts.append(f"{alarm(left)}; the next runs measure the reference anew")
    return texts


def in_words(chart: Chart, engine: str) -> str:
    """Where a chart stands."""
    made = f"{count(chart.points, 'launch', 'launches')} of {engine}"
    if chart.alarm is None or not chart.is_out:
        short = MIN_POINTS - chart.points
        return f"in its band: {made}" if short <= 0 else f"no band yet: {made}, {short} short of it"
    left = alarm(chart.alarm)
    return f"{left}; {chart.points} of {MIN_POINTS} launches of a new band"


def alarm(of: Alarm) -> str:
    """That a GPU left its band, when, how and how far."""
    how = "by drift" if of.drift else "in two launches"
    moved = percent(math.exp(of.departure))
    return f"out of its band since {of.date[:10]}: J/token of the reference {moved} {how}"


def change(of: Change) -> str:
    """That the machine changed, and by how much J/token of the engine did."""
    text = f"machine changed by {of.date[:10]} ({of.what})"
    step = of.step
    if step is None:
        return f"{text}: no cell was measured before and after"
    text = f"{text}: J/token of the reference {percent(step.ratio)}"
    if step.low is None or step.high is None:
        return f"{text} by one launch before and one after, interval unknown"
    low = percent(step.low).removesuffix(" %")
    return (
        f"{text} ({low} to {percent(step.high)}, {count(step.before, 'launch', 'launches')} before,"
        f" {step.after} after)"
    )
