"""The GPUs of a fleet side by side: their launches of an engine, relative to the median GPU."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from scipy.special import stdtrit

from pytest_energy.measure import spread
from pytest_energy.report import gpu_chart
from pytest_energy.report.table import fitted, split_name, wrapped
from pytest_energy.report.words import count
from pytest_energy.store.baseline import Baseline
from pytest_energy.store.gpu_launches import Engine, GpuLaunches, Machine

_COLUMNS = "cell", "GPU", "J/token", "launches", "vs median, %", "static, W", "last seen"
_LEGEND = (
    "vs median: of the GPUs that launched this engine in this cell; ± 95 % by the noise between "
    "launches, pooled over these GPUs. Cells and GPUs differ by themselves: a gate compares within "
    "one GPU."
)


@dataclass(frozen=True)
class Group:
    """What is compared: GPUs of one model, number and power limit, and an engine."""

    gpu_name: str
    gpus: int
    power_limit: str
    engine: Engine

    def __str__(self) -> str:
        number = f"{self.gpus} of " if self.gpus > 1 else ""
        return f"{number}{self.gpu_name}, {self.power_limit}: {self.engine}"


@dataclass
class Place:
    """The launches of one cell on one GPU, or set of GPUs, and one machine.

    Attributes:
        joules_per_token, static_power_w: by launch.
        seen: date of the newest, ISO 8601; empty if unknown.
    """

    gpus: tuple[str, ...]
    joules_per_token: dict[str, float] = field(default_factory=dict)
    static_power_w: dict[str, float | None] = field(default_factory=dict)
    seen: str = ""

    def add(self, launch_id: str, joules_per_token: float, static_power_w: float | None) -> None:
        self.joules_per_token[launch_id] = joules_per_token
        self.static_power_w[launch_id] = static_power_w


Cells = dict[tuple[str, str], list[Place]]  # by name and slug


def groups(baselines: Iterable[Baseline], cached: Iterable[GpuLaunches]) -> dict[Group, Cells]:
    """What the store and this machine's cache know, newest machine of each GPU alone."""
    places: dict[tuple[Group, tuple[str, str]], dict[tuple[tuple[str, ...], Machine], Place]] = {}

    def place(
        gpu_name: str,
        gpus: tuple[str, ...],
        engine: Engine,
        machine: Machine,
        cell: tuple[str, str],
    ) -> Place:
        group = Group(gpu_name, len(gpus), machine.power_limit, engine)
        return places.setdefault((group, cell), {}).setdefault((gpus, machine), Place(gpus))

    for baseline in baselines:
        if baseline.key.is_idle:
            continue
        environment, key = baseline.environment, baseline.key
        engine, machine = Engine.of(environment), Machine.of(environment)
        of = place(baseline.gpu_name, baseline.gpus, engine, machine, (key.name, key.slug))
        of.seen = environment.date or ""
        for launch, energy in zip(baseline.launches, baseline.joules_per_token, strict=True):
            of.add(launch.launch_id, energy, launch.static_power_w)
    for launches in cached:
        for line in launches.lines:
            cell = line.name, line.cell
            of = place(line.gpu_name, line.gpus, line.engine, line.machine, cell)
            of.seen = max(of.seen, line.date, key=_time)
            of.add(line.launch_id, line.joules_per_token, line.static_power_w)
    found: dict[Group, Cells] = {}
    for (group, cell), by_machine in sorted(places.items(), key=lambda item: _order(*item[0])):
        newest: dict[tuple[str, ...], Place] = {}
        for of in sorted(by_machine.values(), key=lambda of: _time(of.seen)):
            newest[of.gpus] = of
        found.setdefault(group, {})[cell] = [newest[gpus] for gpus in sorted(newest)]
    return found


def _order(group: Group, cell: tuple[str, str]) -> tuple[object, ...]:
    """Sizes of a cell by number."""
    heading, size = split_name(cell[0])
    return str(group), group.engine.environment, heading, len(size), size, cell[1]


def _time(date: str) -> float:
    try:
        return datetime.fromisoformat(date).timestamp()
    except (ValueError, OverflowError):
        return -math.inf


def relative(places: Sequence[Place]) -> list[tuple[float, float | None]]:
    """Each GPU's J/token over the median GPU's, and the half width of its 95 % interval (log).

    GPUs differ by more than launches, so which of them is in the middle is taken as known. The half
    width is None if no GPU has two launches, and for the median GPU itself.
    """
    logs = [math.log(spread.geometric_mean([*of.joules_per_token.values()])) for of in places]
    median = statistics.median(logs)
    order = sorted(range(len(logs)), key=logs.__getitem__)
    middle = {order[(len(order) - 1) // 2], order[len(order) // 2]}
    noise = spread.pooled([[*of.joules_per_token.values()] for of in places])
    found: list[tuple[float, float | None]] = []
    for number, log in enumerate(logs):
        weights = {i: -1 / len(middle) for i in middle}
        weights[number] = weights.get(number, 0.0) + 1
        variance = math.fsum(w**2 / len(places[i].joules_per_token) for i, w in weights.items())
        half = None
        if noise is not None and variance:
            quantile = float(stdtrit(noise.degrees_of_freedom, (1 + spread.CONFIDENCE) / 2))
            half = quantile * noise.deviation * math.sqrt(variance)
        found.append((math.exp(log - median), half))
    return found


def lines(
    found: dict[Group, Cells], cached: Sequence[GpuLaunches], damaged: Mapping[str, int]
) -> list[str]:
    """The fleet in WIDTH columns.

    Args:
        damaged: lines by file of the cache.
    """
    shown: list[str] = []
    for group, cells in found.items():
        shown += [*([""] if shown else []), wrapped(str(group)), *_table(cells)]
    charts = [
        wrapped(f"{gpu_chart.named(of.gpus)}: {gpu_chart.with_change(of)}")
        for of in cached
        if of.lines
    ]
    charts += [
        wrapped(
            f"{name}: {count(number, 'damaged line')} passed over; the next launch of the "
            "reference there writes the file without"
        )
        for name, number in damaged.items()
    ]
    compared = any(len(places) > 1 for cells in found.values() for places in cells.values())
    notes = [wrapped(_LEGEND)] if compared else []
    return [*shown, *([""] if notes or charts else []), *charts, *notes]


def _table(cells: Cells) -> list[str]:
    texts: list[Sequence[str]] = [_COLUMNS]
    headings: list[str] = []
    for (name, _), places in cells.items():
        heading, size = split_name(name)
        ratios = relative(places)
        for number, (of, ratio) in enumerate(zip(places, ratios, strict=True)):
            headings.append(heading)
            texts.append(_texts("" if number else size, of, ratio if len(places) > 1 else None))
    first, *rows = fitted(texts)
    shown, above = [first], ""
    for heading, row in zip(headings, rows, strict=True):
        if above != (above := heading):
            shown.append(heading)
        shown.append(row)
    return shown


def _texts(size: str, of: Place, ratio: tuple[float, float | None] | None) -> tuple[str, ...]:
    versus = "-"
    if ratio is not None:
        versus = f"{100 * (ratio[0] - 1):+.1f}".replace("-0.0", "+0.0")
        versus += "" if ratio[1] is None else f" ±{100 * ratio[0] * math.expm1(ratio[1]):.1f}"
    known = [power for power in of.static_power_w.values() if power is not None]
    return (
        size,
        gpu_chart.named(of.gpus),
        f"{spread.geometric_mean([*of.joules_per_token.values()]):#.4g}",
        str(len(of.joules_per_token)),
        versus,
        f"{statistics.fmean(known):.0f}" if known else "-",
        of.seen[:10] or "-",
    )
