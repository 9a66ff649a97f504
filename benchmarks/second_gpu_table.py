"""What a second GPU costs in J/token: one cell on one GPU and on two, from recordings.

python benchmarks/second_gpu_table.py --one ONE_GPU_RECORDINGS … --two TWO_GPU_RECORDINGS …

Cells are compared that differ in nothing but the number of GPUs (tensor_parallel_size). GPUs of one
model differ by several percent, so launches on one GPU must be on one of the two; if both were
measured alone, they count alike. Intervals are 95 %. Each side has its own deviation between
launches, moderated by its stored noise (--baselines) without the launches compared.
"""

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from scipy.special import stdtrit

from pytest_energy.cell.key import CellKey
from pytest_energy.errors import EnergyError
from pytest_energy.measure import spread
from pytest_energy.measure.measurement import Measurement, mean_gpu_power_w, measure
from pytest_energy.measure.metric import Metric
from pytest_energy.recording import recording_file
from pytest_energy.recording.fingerprint import differing_engines
from pytest_energy.report.gpu_shares import gpu_shares
from pytest_energy.report.words import percent
from pytest_energy.store.noise import NoiseStore
from pytest_energy.verdict import comparison

_EQUAL = ("gpu_name", "power_limit_w", "vllm", "engine_args_under_test")
SPREAD_BY = "tensor_parallel_size"


@dataclass(frozen=True)
class Side:
    """Launches of one cell by the UUIDs of the GPU, or pair of GPUs, they ran on."""

    on: Mapping[tuple[str, ...], Sequence[Measurement]]

    @property
    def launches(self) -> list[Measurement]:
        """All of them, GPU by GPU."""
        return [m for launches in self.on.values() for m in launches]

    def groups(self, name: str) -> list[list[float]]:
        """A figure of each launch, a list per GPU."""
        return [[float(getattr(m, name)) for m in launches] for launches in self.on.values()]

    def mean(self, name: str) -> float:
        """Geometric, GPUs counting alike."""
        return spread.geometric_mean([spread.geometric_mean(group) for group in self.groups(name)])

    def error(self, metric: Metric, store: NoiseStore) -> spread.Spread:
        """Standard error of ln(`mean`), with its degrees of freedom."""
        groups = self.groups(metric.value)
        own = spread.pooled(groups) or spread.Spread(0.0, 0.0)
        first = self.launches[0]
        floor = store.floor(
            first.key,
            first.environment.gpu_name,
            metric,
            {m.launch_id for m in self.launches},
        )
        squares = own.deviation**2 * own.degrees_of_freedom
        found = comparison.moderated(squares, int(own.degrees_of_freedom), floor)
        deviation = max(found.spread.deviation, found.assumed)
        root = math.sqrt(math.fsum(1 / len(group) for group in groups)) / len(groups)
        return spread.Spread(deviation * root, found.spread.degrees_of_freedom)


def sides(folders: Sequence[Path], gpus: int) -> dict[str, Side]:
    """Launches below `folders` by their cell's key without the number of GPUs.

    Raises:
        ValueError: a launch is invalid or ran on another number of GPUs, or the launches of a cell
            are not of one engine.
    """
    cells: dict[str, dict[tuple[str, ...], list[Measurement]]] = {}
    for periods in recording_file.read_launches(folders):
        m = measure(*periods)
        on = m.environment.gpus
        if not m.valid:
            raise ValueError(
                f"launch {m.launch_id} is invalid: {'; '.join(m.faults)}. Leave it out."
            )
        if len(on) != gpus:
            raise ValueError(
                f"launch {m.launch_id} ran on {len(on)} GPU{'s' * (len(on) > 1)}, not on {gpus}"
            )
        cells.setdefault(_unspread(m.key).canonical, {}).setdefault(on, []).append(m)
    for found in cells.values():
        if differing := differing_engines(
            [replace(m.environment, gpu_uuids=()) for launches in found.values() for m in launches]
        ):
            raise ValueError(
                f"the launches of one cell differ in {differing}: they are not of one engine"
            )
    return {name: Side(found) for name, found in cells.items()}


def _unspread(key: CellKey) -> CellKey:
    arguments = {name: value for name, value in key.engine_args.items() if name != SPREAD_BY}
    return replace(key, engine_args=arguments)


def lines(one: Mapping[str, Side], two: Mapping[str, Side], store: NoiseStore) -> list[str]:
    """Markdown, one row per cell that was measured on one GPU and on two.

    Raises:
        ValueError: the two were not measured on the same GPUs with the same power limit, vLLM and
            settings, or there are not two launches on any of them.
    """
    lines = [
        "| model | batch size | launches, 1 GPU and 2 | J/token, 1 GPU | 2 GPUs | change "
        "| W, 1 GPU | 2 GPUs | tokens/s, 1 GPU | 2 GPUs | change | the two GPUs' shares |",
        "|---|---:|---|---:|---:|---|---:|---:|---:|---:|---|---|",
    ]
    both = [key for key in one if key in two]
    for key in sorted(
        both, key=lambda k: (one[k].launches[0].key.model, one[k].launches[0].key.batch_size)
    ):
        a, b = one[key], two[key]
        first, other = a.launches[0], b.launches[0]
        unequal = [
            name
            for name in _EQUAL
            if getattr(first.environment, name) != getattr(other.environment, name)
        ]
        if unequal:
            raise ValueError(
                f"the launches on one GPU and on two differ in {', '.join(unequal)} besides"
            )
        if len(b.on) > 1:
            raise ValueError(
                "the launches on two GPUs are of several pairs of GPUs: give those of one"
            )
        (pair,) = b.on
        if elsewhere := [uuid for (uuid,) in a.on if uuid not in pair]:
            names = " and ".join(uuid[:12] for uuid in pair)
            raise ValueError(
                f"{elsewhere[0][:12]}, which was measured alone, is not one of the two GPUs, "
                f"{names}; GPUs of one model differ by several percent. "
                "Measure on one of these, or on each (CUDA_VISIBLE_DEVICES)."
            )
        if not spread.pooled([*a.groups("joules_per_token"), *b.groups("joules_per_token")]):
            raise ValueError(
                f"one launch each of {first.key.model} does not show how launches differ: "
                "give three of each"
            )
        cells = [
            first.key.model,
            str(first.key.batch_size),
            f"{' + '.join(str(len(launches)) for launches in a.on.values())}, {len(b.launches)}",
            *(f"{side.mean('joules_per_token'):#.4g}" for side in (a, b)),
            _change(a, b, Metric.JOULES_PER_TOKEN, store),
            *(f"{side.mean('power_w'):,.0f}" for side in (a, b)),
            *(f"{side.mean('tokens_per_s'):,.0f}" for side in (a, b)),
            _change(a, b, Metric.TOKENS_PER_S, store),
            gpu_shares(mean_gpu_power_w(b.launches)),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _change(one: Side, two: Side, metric: Metric, store: NoiseStore) -> str:
    """What the second GPU changes, with its interval.

    The errors of the two sides differ, so the degrees of freedom are Satterthwaite's (1946,
    Biometrics Bulletin 2(6):110).
    """
    ratio = two.mean(metric.value) / one.mean(metric.value)
    errors = [side.error(metric, store) for side in (one, two)]
    variance = math.fsum(e.deviation**2 for e in errors)
    degrees = variance**2 / math.fsum(e.deviation**4 / e.degrees_of_freedom for e in errors)
    half = float(stdtrit(degrees, 0.5 + spread.CONFIDENCE / 2)) * math.sqrt(variance)
    low, high = ratio * math.exp(-half), ratio * math.exp(half)
    return f"{percent(ratio)} ({percent(low)} to {percent(high)})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--one", type=Path, nargs="+", required=True, help="recordings made on one GPU"
    )
    parser.add_argument("--two", type=Path, nargs="+", required=True, help="recordings made on two")
    parser.add_argument(
        "--baselines",
        type=Path,
        default=Path("baselines"),
        help="the store whose noise is used (default: baselines)",
    )
    arguments = parser.parse_args()
    try:
        found = lines(
            sides(arguments.one, 1), sides(arguments.two, 2), NoiseStore(arguments.baselines)
        )
    except (ValueError, EnergyError) as error:
        sys.exit(str(error))
    if len(found) == 2:
        sys.exit("no cell was measured on one GPU and on two, with all else equal")
    print("\n".join(found))


if __name__ == "__main__":
    main()
