"""How often a steady launch is called unsteady, and a disturbed one is not.

Launches are simulated second by second with the noise of recorded ones, cell by cell, and tested as
a measurement tests them. Seeded.

    python -m benchmarks.steadiness_error_rates --runs 10000 \\
        --json benchmarks/results/steadiness-error-rates.json
"""

import itertools
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.signal import lfilter

from benchmarks import simulation
from pytest_energy.measure.measurement import measure
from pytest_energy.measure.steadiness import Parts, parts, steadiness
from pytest_energy.measure.stopping import MIN_CYCLES, WINDOW_S
from pytest_energy.measure.window import window_of
from pytest_energy.recording import recording_file

RECORDINGS = Path(__file__).parents[1] / "recordings"
# Of engines as they come, whose prompts lie inside the CUDA graphs (256) or outside them (512).
FOLDERS = "baseline", "unchanged", "vllm-0.25.1", "vllm-0.25.1-256-in"
MODEL = "llama-3.1-8b"
TOKENS_IN = 256, 512
MIN_LAUNCHES = 5  # of a cell whose noise is estimated
CORRELATIONS_S = 1.0, 2.0, 3.0, 5.0
FALLS = 1 / 4, 1 / 3, 1 / 2  # of pace
LENGTHS_S = 2.0, 4.0, 6.0, 10.0  # that it is low for
ELASTICITY = 0.5  # of power on pace, if the host is slow and power is not capped
HALVED_FROM = 3.5  # cycles after the warm-up
MORE_W, MORE_FROM = 50.0, 0.45  # share of the window
RAMP = 0.02  # of power over the window

_GRID = 10  # points of a part
_LAGS = 4  # that the correlation time is estimated from


@dataclass(frozen=True)
class Recorded:
    """The noise of one recorded launch, in parts as the test cuts them.

    Attributes:
        places: parts of a cycle.
        part_s: seconds that each takes.
        pace, power: deviations of a part's tokens/s, and of its power at equal tokens/s (log).
        elasticity: of power on pace.
        watts: mean power.
    """

    places: int
    part_s: float
    pace: float
    power: float
    elasticity: float
    watts: float


@dataclass(frozen=True)
class Wander:
    """How pace varies: a share of the variance with a correlation time, the rest independently."""

    share: float
    correlation_s: float

    def correlation(self, count: int, part_s: float) -> np.ndarray:
        """Of means over parts, shape (count, count)."""
        a = part_s / self.correlation_s
        apart = np.abs(np.subtract.outer(np.arange(count), np.arange(count)))
        between = np.exp(-(apart - 1) * a) * (1 - math.exp(-a)) ** 2 / (2 * _decay(a))
        return np.where(apart == 0, 1.0, self.share * between)


@dataclass(frozen=True)
class Cell:
    """Recorded launches of one cell.

    Attributes:
        name: GPU model, tokens in, batch size.
        wander: of their pace, pooled.
        launches: at least five.
    """

    name: str
    wander: Wander
    launches: tuple[Recorded, ...]


@dataclass(frozen=True)
class Disturbance:
    """What happens to a launch.

    Attributes:
        fall: share by which pace falls, from a random time on, for `length_s`.
        halved: whether pace is halved from cycle 4.5 on, at the same power.
        more: whether 50 W more are drawn from 45 % of the window on.
        ramp: whether power rises by 2 % over the window.
    """

    fall: float = 0.0
    length_s: float = 0.0
    halved: bool = False
    more: bool = False
    ramp: bool = False


NONE = Disturbance()


def recorded_cells() -> list[Cell]:
    """Of the recordings: cells with enough valid launches of unaltered engines."""
    found: dict[str, list[tuple[Parts, float]]] = defaultdict(list)
    for folder in sorted({file.parent.parent for file in recording_file.find(RECORDINGS)}):
        if folder.name not in FOLDERS:
            continue
        for periods in recording_file.read_launches([folder]):
            measured, window = measure(*periods), window_of(periods[0])
            tokens_in, _ = measured.key.workload.fixed_lengths or (0, 0)
            of_suite = measured.key.model == MODEL and measured.key.engine == "offline"
            if len(periods) > 1 or not measured.valid or not of_suite or not window:
                continue
            launch = parts([window])
            if tokens_in in TOKENS_IN and launch is not None:
                gpu = folder.relative_to(RECORDINGS).parts[0].partition("-")[0].upper()
                name = f"{gpu}, {tokens_in} in, batch size {measured.key.batch_size}"
                found[name].append((launch, measured.power_w))
    return [
        _cell(name, *zip(*launches, strict=True))
        for name, launches in sorted(found.items(), key=lambda item: _by_size(item[0]))
        if len(launches) >= MIN_LAUNCHES
    ]


def _by_size(name: str) -> tuple[str, int]:
    cell, _, size = name.rpartition(" ")
    return cell, int(size)


def _cell(name: str, launches: Sequence[Parts], watts: Sequence[float]) -> Cell:
    centred = [_centring(launch) for launch in launches]
    seconds = [float(launch.seconds.mean()) for launch in launches]
    paces = [c @ launch.pace for c, launch in zip(centred, launches, strict=True)]
    wander = _wander(centred, seconds, paces)
    recorded = []
    for c, launch, pace, part_s, watt in zip(centred, launches, paces, seconds, watts, strict=True):
        power = c @ launch.power
        elasticity = float(np.clip(pace @ power / (pace @ pace), 0.0, 0.8))
        rest = power - elasticity * pace
        alike = c @ wander.correlation(len(pace), part_s) @ c
        recorded.append(
            Recorded(
                launch.places,
                part_s,
                math.sqrt(float(pace @ pace / np.trace(alike))),
                math.sqrt(float(rest @ rest / (len(pace) - launch.places))),
                elasticity,
                watt,
            )
        )
    return Cell(name, wander, tuple(recorded))


def _centring(launch: Parts) -> np.ndarray:
    """What takes off each place's mean, shape (parts, parts)."""
    alike = (launch.place[:, None] == launch.place[None, :]).astype(float)
    return np.asarray(np.eye(len(alike)) - alike / alike.sum(axis=1, keepdims=True))


def _wander(
    centred: Sequence[np.ndarray], seconds: Sequence[float], paces: Sequence[np.ndarray]
) -> Wander:
    """What fits the autocorrelation of all launches best, by least squares."""
    observed = np.mean([_lags(np.outer(pace, pace)) for pace in paces], axis=0)

    def error(wander: Wander) -> float:
        expected = [
            _lags(c @ wander.correlation(len(c), part_s) @ c)
            for c, part_s in zip(centred, seconds, strict=True)
        ]
        return float(np.sum((observed - np.mean(expected, axis=0)) ** 2))

    shares = np.linspace(0, 1, 11).tolist()
    return min((Wander(*pair) for pair in itertools.product(shares, CORRELATIONS_S)), key=error)


def _lags(covariance: np.ndarray) -> np.ndarray:
    """Autocorrelation at the first lags."""
    sums = [float(np.trace(covariance, offset=lag)) for lag in range(_LAGS + 1)]
    return np.array(sums[1:]) / sums[0]


def _decay(a: float) -> float:
    """a²/2 times the variance of the mean over a time of `a` correlation times."""
    return a - 1 + math.exp(-a)


def simulated(
    generator: np.random.Generator,
    recorded: Recorded,
    wander: Wander,
    disturbances: Sequence[Disturbance] = (NONE,),
) -> list[tuple[Parts, float]]:
    """A launch with each of these disturbances: its parts and J/token, with the same noise.

    Args:
        generator: of the noise, and of the time at which pace falls.
        recorded: the launch whose noise it has.
        wander: of its pace.
        disturbances: one launch each.
    """
    step_s = recorded.part_s / _GRID
    cycle_s = recorded.part_s * recorded.places
    count = math.ceil(4 * max(WINDOW_S + cycle_s, (MIN_CYCLES + 1) * cycle_s) / step_s)
    kept, a = math.exp(-step_s / wander.correlation_s), recorded.part_s / wander.correlation_s
    noise, independent, of_power = generator.standard_normal((3, count))
    start = [kept * generator.standard_normal()]
    slow, _ = lfilter([math.sqrt(1 - kept**2)], [1, -kept], noise, zi=start)
    slow *= math.sqrt(wander.share / (2 * _decay(a))) * a
    pace = recorded.pace * (slow + math.sqrt((1 - wander.share) * _GRID) * independent)
    power = recorded.elasticity * pace
    power += recorded.power * math.sqrt(_GRID) * of_power
    begins = float(generator.uniform())
    made = []
    for disturbance in disturbances:
        lower, more = _disturbed(disturbance, recorded, np.arange(count) * step_s, begins)
        made.append(_cut(recorded, step_s, pace + lower, power + more))
    return made


def _disturbed(
    disturbance: Disturbance, recorded: Recorded, time_s: np.ndarray, begins: float
) -> tuple[np.ndarray, np.ndarray]:
    """What is added to the logarithms of pace and power."""
    none = np.zeros(len(time_s))
    if disturbance.halved:
        late = time_s >= HALVED_FROM * recorded.places * recorded.part_s
        return np.where(late, -math.log(2), 0.0), none
    if disturbance.more:
        late = time_s >= MORE_FROM * WINDOW_S
        return none, np.where(late, math.log1p(MORE_W / recorded.watts), 0.0)
    if disturbance.ramp:
        return none, np.log1p(RAMP * time_s / WINDOW_S)
    from_s = begins * (WINDOW_S - disturbance.length_s)
    within = (time_s >= from_s) & (time_s < from_s + disturbance.length_s)
    lower = np.where(within, math.log1p(-disturbance.fall), 0.0)
    return lower, ELASTICITY * lower


def _cut(
    recorded: Recorded, step_s: float, pace: np.ndarray, power: np.ndarray
) -> tuple[Parts, float]:
    """The parts of whole cycles, as many as a launch is given, and J/token; units cancel."""
    time_s = np.arange(len(pace) + 1) * step_s
    tokens = np.r_[0.0, np.cumsum(np.exp(pace) * step_s)]
    energy = np.r_[0.0, np.cumsum(np.exp(power) * step_s)]
    of_cycle = recorded.places * recorded.part_s
    whole = int(tokens[-1] / of_cycle)
    ends_s = np.interp(np.arange(1, whole + 1) * of_cycle, tokens, time_s)
    cycles = max(MIN_CYCLES, int(np.searchsorted(ends_s, WINDOW_S)) + 1)
    marks = np.arange(cycles * recorded.places + 1) * recorded.part_s
    at_s = np.interp(marks, tokens, time_s)
    seconds, spent = np.diff(at_s), np.diff(np.interp(at_s, time_s, energy))
    number = np.arange(len(seconds))
    launch = Parts(
        power=np.log(spent / seconds),
        pace=np.log(recorded.part_s / seconds),
        seconds=seconds,
        place=number % recorded.places,
        cycle=number // recorded.places,
    )
    return launch, float(spent.sum() / marks[-1])


def false_alarms(cell: Cell, wander: Wander, launches: int, seed: int) -> float:
    """Share of undisturbed launches that are unsteady."""
    return (
        sum(
            bool(tested.unsteady)
            for [(launch, _)] in _launches(cell, wander, [NONE], launches, seed)
            if (tested := steadiness(launch, may_begin_with_transient=True))
        )
        / launches
    )


@dataclass(frozen=True)
class Caught:
    """What becomes of disturbed launches.

    Attributes:
        caught: share that is unsteady.
        reported: share with a drift that is reported.
        bias: 95th percentile of what the disturbance adds to J/token in the others, relative; None
            if there are none.
    """

    caught: float
    reported: float
    bias: float | None


def caught(cell: Cell, disturbance: Disturbance, launches: int, seed: int) -> Caught:
    """What becomes of launches that are disturbed in one way."""
    unsteady, reported, biases = 0, 0, []
    drawn = _launches(cell, cell.wander, [NONE, disturbance], launches, seed)
    for [(_, undisturbed), (launch, disturbed)] in drawn:
        tested = steadiness(launch, may_begin_with_transient=True)
        assert tested is not None
        unsteady += bool(tested.unsteady)
        reported += bool(tested.reported)
        if not tested.unsteady:
            # A transient that is dropped takes its share of the disturbance with it.
            biases.append(0.0 if tested.dropped else disturbed / undisturbed - 1)
    bias = float(np.percentile(biases, 95)) if biases else None
    return Caught(unsteady / launches, reported / launches, bias)


def _launches(
    cell: Cell, wander: Wander, disturbances: Sequence[Disturbance], launches: int, seed: int
) -> Iterator[list[tuple[Parts, float]]]:
    generator = np.random.default_rng(seed)
    for number in range(launches):
        recorded = cell.launches[number % len(cell.launches)]
        yield simulated(generator, recorded, wander, disturbances)


def _rows(cell: Cell, runs: int, seed: int) -> dict[str, object]:
    """All figures of a cell."""
    wander = cell.wander
    quiet = {"estimated": false_alarms(cell, wander, runs, seed)}
    for time_s in CORRELATIONS_S[1::2]:
        all_of_it = Wander(1.0, time_s)
        quiet[f"{time_s:g} s"] = false_alarms(cell, all_of_it, runs // 5, seed)
    some = runs // 20
    falls = [
        {"fall": fall, "length_s": length_s}
        | asdict(caught(cell, Disturbance(fall, length_s), some, seed))
        for fall, length_s in itertools.product(FALLS, LENGTHS_S)
    ]
    ramp = caught(cell, Disturbance(ramp=True), some, seed)
    examples = {
        "halved": caught(cell, Disturbance(halved=True), some, seed).caught,
        "more": caught(cell, Disturbance(more=True), some, seed).caught,
        "ramp": ramp.caught,
        "ramp_reported": ramp.reported,
    }
    return {"false_alarms": quiet, "falls": falls, "examples": examples}


def tables(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    """Markdown, of rows as `main` writes them."""
    noise = [_line(_HEADS), _line(["---"] * len(_HEADS))]
    falls = [_line(["cell", "fall", *(f"{s:g} s" for s in LENGTHS_S)]), "|---" * 6 + "|"]
    for row in cells:
        name = row["cell"]["name"]
        noise.append(_line([name, *_noise(row["cell"]), *_figures(row)]))
        for fall in FALLS:
            of_fall = [_caught(one) for one in row["falls"] if one["fall"] == fall]
            falls.append(_line([name, f"{fall:.0%}", *of_fall]))
    titles = "### Undisturbed launches, and three that are", "### A host that is slow for a while"
    return [titles[0], "", *noise, "", titles[1], "", *falls, ""]


_HEADS = (
    "cell",
    "launches",
    "parts",
    "pace",
    "power",
    "wanders",
    "unsteady",
    "2 s",
    "5 s",
    "halved",
    "+50 W",
    "ramp",
    "reported",
)


def _line(texts: Sequence[str]) -> str:
    return f"| {' | '.join(texts)} |"


def _noise(cell: Mapping[str, Any]) -> list[str]:
    """What was recorded: medians over launches, and how pace wanders."""
    launches, wander = cell["launches"], cell["wander"]
    pace, power = (np.median([one[name] for one in launches]) for name in ("pace", "power"))
    share = f"{wander['share']:.0%}, {wander['correlation_s']:g} s" if wander["share"] else "-"
    count = np.median([_parts(one) for one in launches])
    return [str(len(launches)), f"{count:.0f}", f"{pace:.1%}", f"{power:.1%}", share]


def _figures(row: Mapping[str, Any]) -> list[str]:
    alarms, examples = row["false_alarms"], row["examples"]
    wandering = [f"{alarms[name]:.1%}" for name in ("2 s", "5 s")]
    return [
        f"{alarms['estimated']:.2%}",
        *wandering,
        *(f"{share:.1%}" for share in examples.values()),
    ]


def _parts(launch: Mapping[str, Any]) -> float:
    cycle_s = launch["places"] * launch["part_s"]
    return float(launch["places"] * max(MIN_CYCLES, math.ceil(WINDOW_S / cycle_s)))


def _caught(row: Mapping[str, Any]) -> str:
    return f"{row['caught']:.0%}" + ("" if row["bias"] is None else f", {row['bias']:+.1%}")


def cell_of(written: Mapping[str, Any]) -> Cell:
    """A cell as `main` writes it."""
    launches = tuple(Recorded(**one) for one in written["launches"])
    return Cell(written["name"], Wander(**written["wander"]), launches)


def main() -> None:
    arguments = simulation.options(__doc__, seed=20261129)
    cells = recorded_cells()
    of_all = (itertools.repeat(value) for value in (arguments.runs, arguments.seed))
    with ProcessPoolExecutor(arguments.processes) as pool:
        found = list(pool.map(_rows, cells, *of_all))
    rows = [{"cell": asdict(cell)} | of for cell, of in zip(cells, found, strict=True)]
    simulation.keep(arguments, cells=rows)
    print("\n".join(tables(rows)))


if __name__ == "__main__":
    main()
